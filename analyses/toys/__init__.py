"""The bundled toy models: a task with planted truth, its seeded training command and the commands that measure it.

`facts` holds the vocabulary and the table of planted slips, `question` and `trace` write questions and traces from it,
`task` gathers them (all pure Python). `train` makes the weights in `interp/bundled/`, `evaluate` reproduces their
figures and `card` writes their model cards; `effects` measures what the interventions do to them; `wait_steps` names
what each step of a response does, `wait_circuit` finds which components copy, notice and repair, and proves it.

What the toys know of themselves lives here, for others to check against; nothing here is needed to run a model of
one's own, and what is asked of any model (studies, traces, benchmarks) lives in its own room.
"""

__all__ = ["card", "effects", "evaluate", "facts", "question", "task", "trace", "train", "wait_circuit", "wait_steps"]
