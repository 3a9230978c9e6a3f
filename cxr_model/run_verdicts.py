"""What a run found against itself, for those who use its network later."""

from dataclasses import dataclass

from cxr_model.run_folder import RunFolder, read_json

NOT_TESTED = "This method was not put to the test in its run."
SHOWN_METHOD = "grad-cam"
"""Of the heat maps that go with predictions: one pass forward and one back."""


@dataclass(frozen=True, kw_only=True)
class RunVerdicts:
    red_gates: tuple[str, ...]
    heat_maps: str
    """Whether `SHOWN_METHOD` passed its checks in the run, one sentence."""

    @classmethod
    def read(cls, run: RunFolder) -> "RunVerdicts":
        """From ``metrics.json``; a network whose run has none yet comes without verdicts."""
        if not run.metrics.exists():
            return cls(red_gates=(), heat_maps="Nothing is known of its heat maps.")
        metrics = read_json(run.metrics)
        methods = metrics.get("explanations", {}).get("methods", {})
        verdict = methods.get(SHOWN_METHOD, {}).get("verdict")
        return cls(
            red_gates=tuple(
                gate["name"] for gate in metrics.get("gates", ()) if gate["passed"] is False
            ),
            heat_maps=verdict or NOT_TESTED,
        )

    def told(self) -> str:
        """``; red gates: shortcut``, or nothing: an end for a line that names the run."""
        if not self.red_gates:
            return ""
        return f"; red gates: {', '.join(self.red_gates)}"
