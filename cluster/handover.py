"""On a cluster a command hands itself to Ray's job server, so that with a terminal only the view of the log is lost.

`RAY_ADDRESS` says which cluster: on its head `auto`, from elsewhere `http://127.0.0.1:8265` at the end of a tunnel.
Every machine runs the source that runs here: Ray's runtime environment carries it, whatever is installed there.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shlex
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cluster.connection import joined, set_environment
from cluster.patience import told
from dasgm.cli.again import PROGRAM, program
from dasgm.cli.arguments import fail, unread
from dasgm.store.bucket import checked
from dasgm.store.files import first_line

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

INSIDE = "DASGM_JOB"
"""Set inside the job, so that it does not hand itself over again."""
SERVER = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
PASSED = ("DASGM_GPUS", "DASGM_SLOTS", "DASGM_LOCK_AGE", *SERVER)
"""Variables that hold for the whole cluster; those set for the command are set for the job and its workers. No keys."""
STOP_SECONDS = 60
"""Seconds in which a cancelled job can save how far it got, before it is killed."""
HELP = "On a cluster (RAY_ADDRESS) the command becomes a job: --follow NAME prints its log, --cancel NAME ends it."


def hand_over(module: str, words: Sequence[str]) -> int | None:
    """Run `python -m module WORDS` as a job of the cluster and follow it; also do --follow NAME and --cancel NAME.

    Returns:
        The command's exit code, 130 if the job, or following it, was stopped. None if the command is to continue in
        this process: there is no cluster, this process is the job, or --help or --dry-run was given.
    """
    asked = words[0].partition("=") if words and words[0].split("=")[0] in ("--follow", "--cancel") else None
    if asked is None and (not joined() or INSIDE in os.environ or {"-h", "--help", "--dry-run"} & set(words)):
        return None
    try:
        if asked is None:
            _look_at_addresses(words)
            with _client() as client:
                return _follow(client, _submit(client, module, words))
        flag, _, name = asked
        name = name or (words[1] if len(words) == 2 else "")
        if not name or len(words) > 2:
            raise ValueError(f"{flag} takes the name of a job and stands alone, as in {flag} sweep-1231-235959")
        if not joined():
            raise ValueError(f"{flag} {name}: there is no cluster; RAY_ADDRESS says where")
        with _client() as client:
            return _follow(client, _find(client, name)) if flag == "--follow" else _cancel(client, _find(client, name))
    except (ValueError, RuntimeError) as error:
        fail(first_line(error)[:300])


def _look_at_addresses(words: Sequence[str]) -> None:
    """ValueError if the address of a storage has a key in it, before Ray logs it with the job."""
    for word in words:
        found = re.fullmatch(r"(?:--[\w.-]+=)?(\w+://\S*)", word)
        if found and not found[1].startswith("http"):
            checked(found[1])


@contextmanager
def _client() -> Iterator[JobSubmissionClient]:
    """The cluster's job server. ValueError: it does not answer, or wants another token."""
    import aiohttp
    import requests

    set_environment()
    from ray.job_submission import JobSubmissionClient

    for name in ("job.sdk", "dashboard_sdk"):
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.ERROR)
    address = os.environ["RAY_ADDRESS"]
    hint = "is the cluster up (`ray status`), with its dashboard, and RAY_AUTH_MODE=token with its token?"
    try:
        with _patience(f"the job server at RAY_ADDRESS {address} to answer"):
            _reach(address)
            client = JobSubmissionClient(None if address == "auto" else address)
    except Exception as error:  # Ray's own, OSError, ConnectionError, RuntimeError
        raise ValueError(f"RAY_ADDRESS {address}: no job server answers ({first_line(error)[:150]}); {hint}") from None
    try:
        yield client
    except (requests.ConnectionError, aiohttp.ClientError) as error:
        raise ValueError(f"RAY_ADDRESS {address}: the job server is gone ({type(error).__name__}); {hint}") from None


def _reach(address: str) -> None:
    """OSError at once if nothing listens, where Ray would try for 40 s. Only HOST:PORT is looked at."""
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return
    if host and port:
        socket.create_connection((host, port), 10).close()


def _submit(client: JobSubmissionClient, module: str, words: Sequence[str]) -> str:
    """The new job's name: --name, else the command's, and the time."""
    name = _option(words, "--name") or module.rpartition(".")[2]
    job = re.sub(r"[^\w.-]", "-", name) + time.strftime("-%m%d-%H%M%S")
    address = os.environ["RAY_ADDRESS"]
    if address.startswith("http"):  # this is another machine, with other paths than the head
        entrypoint = f"exec {shlex.join(['python', '-P', '-m', module, *words])}"
    else:
        # if several Rays run on a host, Ray would guess
        here = [] if address == "auto" else ["env", f"RAY_ADDRESS={address}"]
        entrypoint = f"cd {shlex.quote(os.getcwd())} && "
        entrypoint += f"exec {shlex.join([*here, sys.executable, '-P', '-m', module, *words])}"
    typed = program(words, module.replace(".", "/") + ".py")
    environment = {INSIDE: job, PROGRAM: json.dumps(typed), "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}
    environment |= {name: os.environ[name] for name in PASSED if name in os.environ}
    packages = [_folder(package) for package in ("dasgm", "cluster", "tuning")]
    end = time.monotonic() + 60
    with _patience("the job server to take the job"):
        while True:
            try:
                return client.submit_job(
                    entrypoint=entrypoint,
                    submission_id=job,
                    metadata={"name": name},
                    runtime_env={"env_vars": environment, "py_modules": packages, "excludes": ["**/__pycache__"]},
                )
            except RuntimeError as error:
                if "try again later" not in str(error) or time.monotonic() > end:  # the cluster is just starting
                    raise
                time.sleep(1)


def _patience(awaited: str) -> AbstractContextManager[None]:
    return told("joining Ray", lambda: awaited)


def _folder(package: str) -> str:
    spec = find_spec(package)
    assert spec and spec.origin
    return str(Path(spec.origin).parent)


def _option(words: Sequence[str], flag: str) -> str:
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == flag:
            return value if equals else "".join(words[i + 1 : i + 2])
    return ""


def _find(client: JobSubmissionClient, name: str) -> str:
    """The job of this name, or the newest one of this --name. ValueError: there is none."""
    jobs = sorted((job for job in client.list_jobs() if job.submission_id), key=lambda job: job.start_time or 0)
    found = [job for job in jobs if name in (job.submission_id, (job.metadata or {}).get("name"))]
    if not found:
        there = ", ".join(str(job.submission_id) for job in jobs[-10:]) or "none"
        raise ValueError(f"job {name!r} is not known; there are: {there}")
    return str(found[-1].submission_id)


def _follow(client: JobSubmissionClient, job: str) -> int:
    """Print the job's log to its end; its exit code."""
    print(f"job {job} runs on the cluster; Ctrl-C or a lost connection only stops following it", flush=True)
    try:
        asyncio.run(_print(client, job))
        return _result(client, job)
    except KeyboardInterrupt:
        print(f"\nno longer following: job {job} goes on. Look again: --follow {job}; end it: --cancel {job}")
        return 130
    except BrokenPipeError:
        unread(130)
    except RuntimeError as error:
        raise ValueError(f"lost sight of job {job} ({error}), it may go on; look again: --follow {job}") from None


async def _print(client: JobSubmissionClient, job: str) -> None:
    lines: Any = client.tail_job_logs(job)
    async for text in lines:
        print(text, end="", flush=True)


def _result(client: JobSubmissionClient, job: str) -> int:
    """Wait for the job's end; its exit code."""
    while not (info := client.get_job_info(job)).status.is_terminal():
        time.sleep(0.5)
    if info.status == "SUCCEEDED":
        return 0
    if info.status == "STOPPED":
        print(f"job {job} was cancelled; the same command continues")
        return 130
    if info.driver_exit_code is None:  # it never began, or was killed
        raise ValueError(f"job {job} failed: {info.message}")
    return info.driver_exit_code if info.driver_exit_code > 0 else 1


def _cancel(client: JobSubmissionClient, job: str) -> int:
    if not client.stop_job(job):
        print(f"job {job} had ended already")
        return 0
    print(f"job {job} is being ended; what is done stays (up to {STOP_SECONDS} s)", flush=True)
    _result(client, job)
    return 0
