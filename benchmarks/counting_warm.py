"""
Loading the encodings in a new process: CPU and memory, against tiktoken with the files that it would have downloaded.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.harness import Result, Scale
from tokenbudget_mw.counting import ranks

__all__ = ["count_warm"]

_MEASURED = """
import json, sys, time
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20 if sys.platform == "linux" else 0.001
import {module}
before, start = resident(), time.process_time()
{work}
print(json.dumps([time.process_time() - start, max(0.001, resident() - before)]))
"""

_OURS = "tokenbudget_mw.counting.encoders", "tokenbudget_mw.counting.encoders.default_encoders().warm()"
_THEIRS = (
    "tiktoken.load",
    """
kept = []
for name, pattern, path in json.loads(sys.argv[1]):
    found = tiktoken.load.load_tiktoken_bpe(path)
    kept.append(tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=found, special_tokens={}))
    kept[-1].encode_ordinary("warm")
""",
)


def count_warm(scale: Scale) -> Result:
    """
    Both encodings, from the wheel's own files.
    """
    with tempfile.TemporaryDirectory() as folder:
        published = json.dumps([_published(name, Path(folder)) for name in ranks.NAMES])
        seen: dict[str, list[tuple[float, float]]] = {"ours": [], "theirs": []}
        for _ in range(max(2, scale.rounds // 2)):
            seen["ours"].append(_in_a_new_process(*_OURS))
            seen["theirs"].append(_in_a_new_process(*_THEIRS, published))
    spent = {who: median(cpu for cpu, _ in found) * 1e3 for who, found in seen.items()}
    return Result(
        value=spent["ours"],
        unit="ms CPU",
        baseline="tiktoken from its published files",
        baseline_value=spent["theirs"],
        goal="<= 300 ms",
        met=spent["ours"] <= 300,
        details={f"{who}_mib": median(size for _, size in found) for who, found in seen.items()},
    )


def _published(name: str, folder: Path) -> tuple[str, str, str]:
    data, path = ranks.load(name), folder / f"{name}.tiktoken"
    path.write_bytes(b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in data.tokens.items()))
    return name, data.pattern, str(path)


def _in_a_new_process(module: str, work: str, *arguments: str) -> tuple[float, float]:
    program = _MEASURED.format(module=module, work=work)
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    cpu, size = json.loads(done.stdout)
    return cpu, size
