"""Makes the logs beside it anew: lm-evaluation-harness and Inspect, run on the bundled toy reasoner.

In an environment of their own, which needs nothing of peaklens, from the root of the checkout:

    python -m venv /tmp/logs
    /tmp/logs/bin/pip install -c constraints.txt "lm-eval[hf]==0.4.13" inspect-ai==0.3.285
    /tmp/logs/bin/python tests/data/responses/make_logs.py

What it writes: ``samples_toy_chain.jsonl`` (two filters, so two rows a problem), ``toy_chain.eval`` and the same log as
``toy_chain.json`` (two epochs). Inspect asks through a chat template, `TEMPLATE`, in a copy of the toy.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
TOY = HERE.parents[2] / "interp" / "bundled" / "toy-reasoner"
TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}"
PROBLEMS = (
    ("toy-000", "4 A + 9 B * 3 C - 5 D - 4 E - 6 ? ->", "Okay now A 4 + 9 is 3 ; So B 3 * 3 is 9 . Therefore 4", "4"),
    ("six", "6 A * 3 B - 8 ? ->", "Okay A 6 * 3 is 8 ; So B 8 - 8 is 0 . Therefore 0", "0"),
)

LM_EVAL = """
task: toy_chain
dataset_path: json
dataset_kwargs: {data_files: {test: toy.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: [], max_gen_toks: 120, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
filter_list:
  - name: last-digit
    filter: [{function: regex, regex_pattern: "Therefore ([0-9])"}, {function: take_first}]
  - name: whole
    filter: [{function: take_first}]
"""

INSPECT = """
import sys
from inspect_ai import Task, eval
from inspect_ai.dataset import FieldSpec, json_dataset
from inspect_ai.log import read_eval_log, write_eval_log
from inspect_ai.scorer import includes
from inspect_ai.solver import generate

fields = FieldSpec(input="question", target="answer", id="id", metadata=["solution"])
task = Task(dataset=json_dataset("toy.jsonl", fields), solver=generate(), scorer=includes(), name="toy_chain")
options = {"model_path": sys.argv[1], "device": "cpu"}
[log] = eval(task, model="hf/local", model_args=options, log_dir="logs", log_format="eval", max_tokens=120, epochs=2,
             display="none")
assert log.status == "success", log.error
write_eval_log(read_eval_log(log.location), "logs/toy_chain.json", "json")
"""


def main() -> None:
    """Run both and put what they wrote beside this file."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        chatty = work / "toy-reasoner"
        shutil.copytree(TOY, chatty)
        settings = json.loads((chatty / "tokenizer_config.json").read_text())
        (chatty / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEMPLATE}))
        names = ("id", "question", "solution", "answer")
        rows = [json.dumps(dict(zip(names, problem, strict=True))) for problem in PROBLEMS]
        (work / "toy.jsonl").write_text("\n".join(rows) + "\n")
        (work / "toy_chain.yaml").write_text(LM_EVAL)
        (work / "ask.py").write_text(INSPECT)
        quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(work / "hf")}
        asked = [
            "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={chatty}", "--tasks", "toy_chain",
            "--include_path", ".", "--output_path", "out", "--log_samples", "--device", "cpu",
        ]  # fmt: skip
        for command in (asked, ["ask.py", str(chatty)]):
            subprocess.run([sys.executable, *command], cwd=work, env=quiet, check=True)
        for pattern, name in (
            ("out/**/samples_*.jsonl", "samples_toy_chain.jsonl"),
            ("logs/*.eval", "toy_chain.eval"),
            ("logs/toy_chain.json", "toy_chain.json"),
        ):
            (found,) = work.glob(pattern)
            shutil.copy(found, HERE / name)


if __name__ == "__main__":
    main()
