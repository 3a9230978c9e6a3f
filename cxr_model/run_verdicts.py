"""What a run found against itself, for those who use its network later."""

from dataclasses import dataclass

from cxr_model.run_folder import RunFolder, read_json

NOT_TESTED = "This method was not put to the test in its run."
SHOWN_METHOD = "grad-cam"
"""Of the heat maps that go with predictions: one pass forward and one back."""


@dataclass(frozen=True, kw_only=True)
class RunVerdicts:
    red_gates: tuple[str, ...]
    undecided_gates: tuple[str, ...]
    heat_maps: str
    """Whether `SHOWN_METHOD` passed its checks in the run, one sentence."""

    @classmethod
    def read(cls, run: RunFolder) -> "RunVerdicts":
        """From ``metrics.json``; a network whose run has none yet comes without verdicts."""
        if not run.metrics.exists():
            unknown = "Nothing is known of its heat maps."
            return cls(red_gates=(), undecided_gates=(), heat_maps=unknown)
        metrics = read_json(run.metrics)
        methods = metrics.get("explanations", {}).get("methods", {})
        verdict = methods.get(SHOWN_METHOD, {}).get("verdict")
        passed = {gate["name"]: gate["passed"] for gate in metrics.get("gates", ())}
        return cls(
            red_gates=tuple(name for name in passed if passed[name] is False),
            undecided_gates=tuple(name for name in passed if passed[name] is None),
            heat_maps=verdict or NOT_TESTED,
        )

    def told(self) -> str:
        """``; red gates: shortcut; undecided: calibration``: an end for a line on the run."""
        named = {"red gates": self.red_gates, "undecided": self.undecided_gates}
        return "".join(f"; {what}: {', '.join(gates)}" for what, gates in named.items() if gates)
