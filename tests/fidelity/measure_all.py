"""Measure several engines one after the other, and lose nothing to one that fails.

    python3 measure_all.py MEASURE.PY OUT SECONDS PLAN.json...

Runs `MEASURE.PY PLAN OUT WORKLOAD...` for the workloads of each plan that have no whole result in OUT yet, so that the same
command goes on where an earlier one was killed. An engine that ends before all of them are measured is started again without
the workload at which it ended; after the third end, or one before any result, the next plan has its turn. Nothing starts when
less than a minute is left of SECONDS, and all that runs is stopped when they are over. OUT/log has what was printed, OUT/NAME.log
what an engine said; OUT/done appears at the end. A result that is not whole has .broken after its name then.
"""
import json, os, signal, subprocess, sys, time

ENDS = 3
RESERVE_S = 60
LEAVE_S = 10


def is_whole(path, workload):
    try:
        with open(path) as f:
            result = json.load(f)
        return len(result["requests"]) == len(workload["requests"]) and all(
            len(r["token_s"]) == r["output_length"] for r in result["requests"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def stop(process):
    """The engine's processes too: the GPU's memory is free for the next one only when all of them are gone."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def wait(process, end, is_done):
    """The exit code; an engine that has measured everything may take long to leave, and is not waited for."""
    done_at = None
    while time.monotonic() < end:
        try:
            return process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            done_at = done_at or (time.monotonic() if is_done() else None)
            if done_at and time.monotonic() - done_at > LEAVE_S:
                return "all done"
    return "the time is over"


def main(script, out, seconds, plans):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    end = time.monotonic() + float(seconds)
    os.makedirs(out, exist_ok=True)
    if os.path.exists(f"{out}/done"):
        os.remove(f"{out}/done")
    log = open(f"{out}/log", "a", buffering=1)

    def say(text):
        print(text, flush=True)
        print(text, file=log)

    for path in plans:
        with open(path) as f:
            plan = json.load(f)
        name, skipped = plan["name"], set()
        whole = set()

        def left():
            for w in plan["workloads"]:
                if w["name"] not in whole and is_whole(f"{out}/{name}--{w['name']}.json", w):
                    whole.add(w["name"])
            return [w for w in plan["workloads"] if w["name"] not in whole | skipped]

        # The warm-up is measured again at every start, so that nothing is compiled later on.
        warm_up = [w["name"] for w in plan["workloads"][:1] if w["name"] == "warm-up"]
        for _ in range(ENDS):
            before = [w["name"] for w in left() if w["name"] not in warm_up]
            if not before or end - time.monotonic() < RESERVE_S:
                break
            for w in warm_up:
                if os.path.exists(f"{out}/{name}--{w}.json"):
                    os.remove(f"{out}/{name}--{w}.json")
            began, began_at = time.monotonic(), time.time()
            with open(f"{out}/{name}.log", "a") as engine_log:
                process = subprocess.Popen([sys.executable, script, path, out, *warm_up, *before], stdout=engine_log,
                                           stderr=subprocess.STDOUT, start_new_session=True)
                try:
                    code = wait(process, end, lambda: not left())
                finally:
                    stop(process)
            after = [w["name"] for w in left() if w["name"] not in warm_up]
            say(f"{name}: {len(before) - len(after)} of {len(before)} workloads in {time.monotonic() - began:.0f} s, "
                f"ended with {code}")
            if after == before and not any(os.path.exists(f"{out}/{name}--{w}.json") for w in warm_up):
                say(f"{name}: does not start, see {name}.log")
                break
            # It ended at the workload after the last one that it wrote, whole or not.
            def is_written(w):
                result = f"{out}/{name}--{w}.json"
                return os.path.exists(result) and os.path.getmtime(result) >= began_at - 1

            at = max([i + 1 for i, w in enumerate(before) if is_written(w)], default=0)
            if at < len(before) and code != "the time is over":
                skipped.add(before[at])
                say(f"{name}: without {before[at]} from here on")
        missing = [w["name"] for w in plan["workloads"] if not is_whole(f"{out}/{name}--{w['name']}.json", w)]
        for workload in missing:
            broken = f"{out}/{name}--{workload}.json"
            if os.path.exists(broken):
                os.replace(broken, broken + ".broken")
        say(f"{name}: {len(plan['workloads']) - len(missing)} of {len(plan['workloads'])} workloads"
            + (f", without {', '.join(missing)}" if missing else ""))
    say("done")
    open(f"{out}/done", "w").close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
