"""What a run found against itself, for those who use its network later."""

from dataclasses import dataclass

from cxr_model.run_folder import RunFolder, read_json

SHOWN_METHOD = "grad-cam"
"""Of the heat maps that go with predictions: one pass forward and one back."""


@dataclass(frozen=True, kw_only=True)
class RunVerdicts:
    red_gates: tuple[str, ...]
    heat_maps: str
    """Whether `SHOWN_METHOD` passed its checks in the run, one sentence."""

    @classmethod
    def read(cls, run: RunFolder) -> "RunVerdicts":
        """From ``metrics.json``; a run without one has not been measured."""
        metrics = read_json(run.metrics) if run.metrics.exists() else {}
        methods = metrics.get("explanations", {}).get("methods", {})
        verdict = methods.get(SHOWN_METHOD, {}).get("verdict")
        return cls(
            red_gates=tuple(
                gate["name"] for gate in metrics.get("gates", ()) if gate["passed"] is False
            ),
            heat_maps=verdict or f"{SHOWN_METHOD}: was not put to the test in this run.",
        )

    def told(self) -> str:
        """``; red gates: shortcut``, or nothing: an end for a line that names the run."""
        if not self.red_gates:
            return ""
        return f"; red gates: {', '.join(self.red_gates)}"
