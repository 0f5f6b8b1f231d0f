"""An invented yard: nodes, jobs, readings and logs, all from a seed and the time since it was made.

`double.py` serves it as the daemon would; tests change it by hand and tell of the change.
"""

import hashlib
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

LIVE = ("waiting", "starting", "running", "stopping")
NAMES = (
    "atlas-pretrain",
    "atlas-70b-sft",
    "atlas-8b-dpo",
    "vit-22b",
    "asr-large",
    "tts-flow",
    "whisper-ko",
    "two-tower",
    "rt2-sim",
    "ocr-v5",
    "nmt-ko-en",
    "reranker",
)
PROJECT_OF = {
    "atlas": "atlas-llm",
    "vit": "vision",
    "ocr": "vision",
    "asr": "speech",
    "tts": "speech",
    "whisper": "speech",
    "two": "ranking",
    "reranker": "ranking",
    "rt2": "robotics",
    "nmt": "translation",
}
POWER_W = {"A100": 400}
OWNERS = ("jiwoo", "minseo", "haneul", "doyun", "sora", "yuna")
Job = dict[str, Any]
Node = dict[str, Any]


def real_now_ms() -> int:
    return int(time.time() * 1000)


@dataclass(slots=True)
class Yard:
    """An invented cluster. `lock` guards everything; `news` wakes the event streams."""

    gpus: int
    seed: int = 7
    per_node: int = 8
    slots: bool = False
    calm: bool = False
    sensors: bool = True
    logged_in: bool = True
    nodes: list[Node] = field(default_factory=list)
    jobs: dict[str, Job] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    n: int = 200
    cut: int = 0
    quotas: dict[str, int] = field(default_factory=dict)
    clock: Callable[[], int] = real_now_ms
    made_ms: int = 0
    news: threading.Condition = field(default_factory=threading.Condition)
    random: Random = field(default_factory=Random)

    def __post_init__(self) -> None:
        self.random.seed(self.seed)
        self.made_ms = self.clock()
        self._make_nodes()
        if not self.calm:
            self._make_jobs()
            self._break_some()

    # -- making ----------------------------------------------------------------------------------

    def _make_nodes(self) -> None:
        per_block = 64 if self.gpus > 2048 else 32
        for at in range(max(1, self.gpus // self.per_node)):
            block = at // per_block
            model = "cpu" if self.slots else ("H100", "H100", "H100", "A100", "H200")[block % 5]
            prefix = "host" if self.slots else f"{model.lower()}-{block + 1:02}"
            memory = 0 if self.slots else {"A100": 81920, "H200": 144384}.get(model, 81559)
            self.nodes.append(
                {
                    "id": f"{prefix}-{at % per_block + 1:03}" if not self.slots else "workstation",
                    "state": "ready",
                    "model": model,
                    "group": "default",
                    "domains": []
                    if self.slots
                    else [f"block-{block + 1:02}", f"leaf-{at // 8:03}"],
                    "cpus": 8 if self.slots else 192,
                    "memory_mib": 32_000 if self.slots else 2_048_000,
                    "gpus": [
                        {
                            "index": i,
                            "healthy": True,
                            "free_milli": 1000,
                            "jobs": [],
                            "model": model,
                            "memory_mib": memory,
                        }
                        for i in range(min(self.per_node, self.gpus))
                    ],
                }
            )

    def _make_jobs(self) -> None:
        ended = 40 if self.gpus > 200 else 12
        for i in reversed(range(ended)):
            self._ended(("succeeded", "succeeded", "failed", "stopped")[i % 4], 2 + i * 9)
        sizes = [1024, 512, 256, 128, 64, 64, 32, 32, 16, 16, 8, 8, 4, 2, 1, 1]
        largest = self.gpus * 0.22
        sizes = [size for size in sizes if size <= largest] or [1]
        while self.free() > self.gpus * 0.06 + 1:
            size = self.random.choice(sizes)
            if size > self.free() - self.gpus * 0.03:
                size = 1 if self.free() < 16 else self.random.choice((1, 2, 4, 8))
            job = self.submit(size)
            if not self.start(job, self.random.randrange(3 * 60_000, 20 * 3_600_000)):
                del self.jobs[job["id"]]
        waiting = (128, 64, 64, 32, 16, 48, 8, 96) if self.gpus > 200 else (8, 4)
        for at, size in enumerate(waiting):
            job = self.submit(min(size, max(2, self.gpus // 2)))
            age_ms = 7_900_000 - at * 940_000 - self.random.randrange(400_000)
            job["submitted_ms"] = self.made_ms - age_ms
        self._reasons()

    def _ended(self, phase: str, minutes_ago: int) -> None:
        job = self.submit(self.random.choice((1, 2, 8, 16)), live=False)
        end = self.made_ms - minutes_ago * 60_000
        job |= {"phase": phase, "ended_ms": end, "running_ms": end - 3_000_000, "attempt": 1}
        job["submitted_ms"] = end - 3_060_000
        job["exit_code"] = {"succeeded": 0, "failed": 1, "stopped": 143}[phase]
        if phase == "failed":
            rank = self.random.randrange(job["members"])
            job["reason"] = f"member {rank} exited with 1"
        self._seat(job, [(self.nodes[0]["id"], [0])] * job["members"])
        for seat in job["seats"]:
            seat["exit"] = {"code": job["exit_code"], "signal": 0, "lost": False}

    def _break_some(self) -> None:
        if self.gpus < 100:
            return
        for node in self.random.sample(self.nodes, 4):
            self.random.choice(node["gpus"])["healthy"] = False
        self.random.choice([n for n in self.nodes if n["model"] != "H200"])["state"] = "cordoned"
        for gpu in (lost := self.nodes[len(self.nodes) // 2])["gpus"]:
            gpu["jobs"] = []
        lost["state"] = "lost"

    def submit(self, gpus: int, live: bool = True) -> Job:
        self.n += 1
        name = self.random.choice(NAMES)
        members = max(1, gpus // self.per_node)
        each = min(gpus, self.per_node)
        job: Job = {
            "id": f"{name}-{self.n}",
            "n": self.n,
            "name": name,
            "project": PROJECT_OF[name.split("-")[0]],
            "owner": self.random.choice(OWNERS),
            "phase": "waiting",
            "reason": "",
            "provisioning": "on_demand",
            "category": "training",
            "purpose": "produce",
            "priority": 0,
            "members": members,
            "gpus": each,
            "profile": "",
            "command": ["torchrun", "train.py", "--config", f"configs/{name}.yaml"],
            "image": "",
            "code": hashlib.sha256(name.encode()).hexdigest(),
            "env_names": ["HF_HOME", "WANDB_MODE"],
            "time_ms": self.random.choice((0, 12 * 3_600_000, 24 * 3_600_000)),
            "grace_ms": 30_000,
            "retries": 3,
            "failures": 0,
            "attempt": 0,
            "allocation": None,
            "submitted_ms": self.clock(),
            "running_ms": 0,
            "ended_ms": 0,
            "exit_code": None,
            "seats": [],
            "memo": "",
            "forked_from": "",
            "waits": None,
        }
        self.jobs[job["id"]] = job
        self.kinds[job["id"]] = self.random.choice(("steady",) * 7 + ("low", "bubbly", "idle"))
        return job

    def free(self) -> int:
        return sum(g["free_milli"] == 1000 for node in self.nodes for g in node["gpus"])

    def start(self, job: Job, ago_ms: int = 0) -> bool:
        """All members on the fullest nodes that fit, or nothing."""
        each = job["gpus"]
        found: list[tuple[str, list[int]]] = []
        rooms = []
        for node in self.nodes:
            free = [g["index"] for g in node["gpus"] if g["free_milli"] == 1000 and g["healthy"]]
            if node["state"] == "ready" and len(free) >= each:
                rooms.append((len(free), node["id"], free))
        rooms.sort(key=lambda room: (room[0], room[1]))
        for _, node_id, free in rooms:
            for first in range(0, len(free) - each + 1, each):
                if len(found) < job["members"]:
                    found.append((node_id, free[first : first + each]))
        if len(found) < job["members"]:
            return False
        job |= {
            "phase": "running",
            "running_ms": self.clock() - ago_ms,
            "attempt": 1,
            "waits": None,
        }
        if ago_ms:
            job["submitted_ms"] = job["running_ms"] - 40_000
        job["allocation"] = f"{job['id']}.1"
        self._seat(job, found)
        held = {node["id"]: node for node in self.nodes}
        for seat in job["seats"]:
            for gpu in held[seat["node"]]["gpus"]:
                if gpu["index"] in seat["gpus"]:
                    gpu["free_milli"] = 0
                    gpu["jobs"] = [{"job": job["id"], "member": seat["rank"], "milli": 1000}]
        return True

    def _seat(self, job: Job, places: list[tuple[str, list[int]]]) -> None:
        job["seats"] = [
            {"rank": rank, "node": node, "gpus": list(gpus), "started": True, "exit": None}
            for rank, (node, gpus) in enumerate(places)
        ]

    def _reasons(self) -> None:
        free = self.free()
        for ahead, job in enumerate(self.waiting()):
            size = f"{job['members']} members × {job['gpus']} GPUs"
            if job["members"] == 1:
                size = f"{job['gpus']} GPUs"
            text = f"needs {size}; {free} of {self.gpus} GPUs are free"
            text += f"; {ahead} ahead of it" if ahead else ""
            earliest = self.clock() + (ahead + 1) * 1_260_000 if ahead < 5 else 0
            job["waits"] = {"code": "capacity", "text": text, "earliest_ms": earliest, "basis": ""}
            job["waits"]["basis"] = "the time limits of 3 running jobs" if earliest else ""

    def waiting(self) -> list[Job]:
        found = [job for job in self.jobs.values() if job["phase"] == "waiting"]
        return sorted(found, key=lambda job: (job["submitted_ms"], job["n"]))

    # -- time --------------------------------------------------------------------------------------

    def end(self, job: Job, phase: str, code: int) -> None:
        job |= {"phase": phase, "ended_ms": self.clock(), "exit_code": code}
        if phase == "failed":
            job["reason"] = f"member 0 exited with {code}"
        for seat in job["seats"]:
            seat["exit"] = {"code": code, "signal": 0, "lost": False}
        for node in self.nodes:
            for gpu in node["gpus"]:
                if any(held["job"] == job["id"] for held in gpu["jobs"]):
                    gpu["jobs"] = []
                    gpu["free_milli"] = 1000

    def tell(self, kind: str, job: Job | None = None, node: Node | None = None) -> None:
        """One event into the stream. Call with the lock held, after the change."""
        body: dict[str, Any] = {}
        if job:
            body["job"] = {key: job[key] for key in ("id", "n", "phase", "reason")}
        if node:
            body["node"] = {"id": node["id"], "state": node["state"]}
        self.events.append({"seq": len(self.events) + 1, "type": kind, "body": body})
        self.news.notify_all()

    def turn(self) -> None:
        """What a few seconds bring: a job ends, the head of the queue starts, one is submitted."""
        with self.news:
            running = [job for job in self.jobs.values() if job["phase"] == "running"]
            small = [job for job in running if job["members"] == 1]
            if small:
                job = self.random.choice(small)
                failed = self.random.random() < 0.15
                self.end(job, "failed" if failed else "succeeded", 1 if failed else 0)
                self.tell("job", job)
            for job in self.waiting():
                if self.start(job):
                    self.tell("job", job)
            self.tell("job", self.submit(self.random.choice((1, 2, 4, 8))))
            self._reasons()

    def top(self) -> dict[str, Any]:
        beat = self.clock() / 1000
        nodes = []
        for at, node in enumerate(self.nodes):
            if node["state"] == "lost":
                continue
            gpus = [self._reading(at, gpu, beat) for gpu in node["gpus"]]
            nodes.append(
                {"id": node["id"], "cpu_percent": 31.0, "memory_used_mib": 210_000, "gpus": gpus}
            )
        members = [
            {
                "job": job["id"],
                "allocation": job["allocation"],
                "rank": seat["rank"],
                "cpu_percent": 180.0 + seat["rank"],
                "memory_mib": 41_000 + 13 * seat["rank"],
            }
            for job in self.jobs.values()
            if job["phase"] == "running"
            for seat in job["seats"][:64]
        ]
        return {"nodes": nodes, "members": members}

    def _reading(self, at: int, gpu: dict[str, Any], beat: float) -> dict[str, Any]:
        none = {"util_percent": None, "memory_used_mib": None, "power_w": None}
        if not self.sensors or self.slots:
            return {"index": gpu["index"], **none, "temperature_c": None}
        wave = math.sin(beat / 7 + at * 1.7 + gpu["index"])
        util, memory = 0.0, 0.02
        if gpu["jobs"]:
            job = gpu["jobs"][0]["job"]
            base = 74 + zlib_like(job) % 22
            kind = self.kinds[job]
            util = {"steady": base + 3 * wave, "low": 36 + 6 * wave, "idle": 0.0}.get(
                kind, base - 24 + 22 * wave
            )
            memory = 0.55 + (zlib_like(job) % 40) / 100
        return {
            "index": gpu["index"],
            "util_percent": round(max(0.0, min(100.0, util)), 1),
            "memory_used_mib": int(memory * gpu["memory_mib"]),
            "power_w": round((0.13 + 0.0078 * util) * POWER_W.get(gpu["model"], 700), 1),
            "temperature_c": round(34 + util * 0.38 + 2 * wave, 1),
        }

    # -- views ---------------------------------------------------------------------------------

    def overview(self) -> dict[str, Any]:
        counts: dict[str, int] = {}
        for job in self.jobs.values():
            counts[job["phase"]] = counts.get(job["phase"], 0) + 1
        all_gpus = [(node, gpu) for node in self.nodes for gpu in node["gpus"]]
        held = sum(bool(gpu["jobs"]) for _, gpu in all_gpus)
        unhealthy = sum(not gpu["healthy"] or n["state"] == "lost" for n, gpu in all_gpus)
        total = len(all_gpus)
        gpus = {"total": total, "held": held, "free": total - held, "unhealthy": unhealthy}
        return {
            "seq": len(self.events),
            "now_ms": self.clock(),
            "version": "0.1.0",
            "cluster": "workstation" if self.slots else "seoul-1",
            "counts": counts,
            "gpus": gpus,
            "nodes": len(self.nodes),
        }

    def projects(self) -> list[dict[str, Any]]:
        used: dict[str, float] = dict.fromkeys([*PROJECT_OF.values()], 0)
        for job in self.jobs.values():
            if job["phase"] in LIVE and job["phase"] != "waiting":
                used[job["project"]] += job["members"] * job["gpus"]
        shares = {"atlas-llm": 0.35, "vision": 0.125, "speech": 0.2, "robotics": 0.09}
        found = []
        for name, held in sorted(used.items()):
            quota = int(self.gpus * shares[name]) if name in shares else None
            quota = self.quotas.get(name, quota)
            row = {"id": name, "workspace": "default", "quota_gpus": quota, "used_gpus": held}
            found.append(row)
        return [
            *found,
            {"id": "default", "workspace": "default", "quota_gpus": None, "used_gpus": 0},
        ]

    def page_of_jobs(self, query: dict[str, str]) -> dict[str, Any]:
        phases = set(query.get("phase", "").split(",")) - {""}
        if "live" in phases:
            phases |= set(LIVE)
        if "ended" in phases:
            phases |= {"succeeded", "failed", "stopped"}
        before = int(query.get("before", 1 << 60))
        limit = int(query.get("limit", 100))
        found = [
            job
            for job in sorted(self.jobs.values(), key=lambda job: -int(job["n"]))
            if job["n"] < before and (not phases or job["phase"] in phases)
        ]
        return {
            "jobs": found[:limit],
            "next": found[limit - 1]["n"] if len(found) > limit else None,
        }

    def history(self, job: Job) -> list[dict[str, Any]]:
        lines = [(job["submitted_ms"], "JobSubmitted", f"submitted by {job['owner']}")]
        if job["running_ms"]:
            at = job["running_ms"]
            nodes = list(dict.fromkeys(seat["node"] for seat in job["seats"]))
            where = ", ".join(nodes[:4]) + (f" and {len(nodes) - 4} more" if len(nodes) > 4 else "")
            lines.append((at - 900, "AllocationBound", f"got {job['members']} places on {where}"))
            lines.append((at, "MemberStarted", f"all {job['members']} members started"))
        if job["ended_ms"]:
            lines.append(
                (job["ended_ms"], "JobEnded", f"{job['phase']}: {job['reason'] or 'done'}")
            )
        return [
            {"seq": i + 1, "at_ms": at, "kind": kind, "job": job["id"], "node": None, "text": text}
            for i, (at, kind, text) in enumerate(lines)
        ]

    def reports(self, job: Job, member: int, offset: int) -> dict[str, Any]:
        if not job["running_ms"] or self.calm:
            return {"offset": 0, "reports": []}
        end = job["ended_ms"] or self.clock()
        steps = min(20_000, (end - job["running_ms"]) // 2_000)
        rows = []
        for step in range(offset, steps):
            noise = math.sin(step * 12.9898 + member * 4.1) * 0.5
            loss = 1.6 + 7.4 * math.exp(-step / 260) + 0.9 * math.exp(-step / 2400) + 0.05 * noise
            rows.append(
                {
                    "t_ms": job["running_ms"] + step * 2_000,
                    "step": step * 10,
                    "loss": round(loss, 4),
                    "grad_norm": round(0.4 + 2 * math.exp(-step / 90) + 0.08 * abs(noise), 4),
                    "lr": 3e-4 * min(1, (step + 1) / 60) * (0.5 + 0.5 * math.cos(step / 9_000)),
                    "tokens_per_s": round(
                        412_000 * (0.97 + 0.02 * noise) * (0.4 if step % 200 < 3 else 1)
                    ),
                }
            )
            if step % 50 == 49:
                rows[-1]["val_accuracy"] = round(0.95 - 0.6 * math.exp(-step / 700), 4)
        return {"offset": int(steps), "reports": rows}

    def log(self, job: Job, member: int) -> bytes:
        if not job["running_ms"] or self.calm:
            return b""
        end = job["ended_ms"] or self.clock()
        lines = [
            f"\x1b[2m{job['id']} rank {member} of {job['members']}\x1b[0m",
            "loading 14,336 shards ...",
            "\rindex  12%\rindex  64%\rindex 100%",
        ]
        for step in range(int(min(60_000, (end - job["running_ms"]) // 1_500))):
            at = time.strftime("%H:%M:%S", time.gmtime(job["running_ms"] / 1000 + step * 1.5))
            loss = 1.6 + 7.4 * math.exp(-step / 260)
            lines.append(f"\x1b[90m{at}\x1b[0m step \x1b[36m{step * 10:>6}\x1b[0m loss {loss:.4f}")
            if step % 40 == 39:
                lines.append(f"\x1b[32mcheckpoint\x1b[0m step {step * 10} saved in 1.8 s")
            if step % 97 == 96:
                lines.append(
                    "\x1b[33mwarning\x1b[0m: dataloader waited 412 ms; 한글도 그대로 보입니다"
                )
        if job["phase"] == "failed":
            lines += [
                "Traceback (most recent call last):",
                '  File "train.py", line 212, in <module>',
            ]
            lines.append("\x1b[1;31mRuntimeError\x1b[0m: CUDA error: uncorrectable ECC error")
        return ("\n".join(lines) + "\n").encode()


def zlib_like(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
