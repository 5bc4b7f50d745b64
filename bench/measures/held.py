"""Many connections: what they take, what they cost others, how the tables grow, how two workers share."""
import functools
import subprocess
import sys
import time

from .bed import MESSAGE, SYNCLINE, Bed, line, memory_available, program, report, warm
from .connections import failures, seen

# Octets of a connection while its table has just grown, and of a process
EACH, FIXED = 100, 1 << 28


def affordable(wanted, ends=1):
    """how many of `wanted` connections there is memory for"""
    return min(wanted, int(0.8 * memory_available() - FIXED) // (EACH * ends) // 1000 * 1000)


def veth(a):
    """both ends hold; every connection exchanges two requests before it is closed"""
    count = affordable(a.held, ends=2)
    addresses = -(-count // 60_000)
    last = "10.66.%d.%d" % (1 + (addresses - 1) // 256, (addresses - 1) % 256)
    ramp = max(10, count // a.held_rate)
    warm(min(2 * count * EACH, memory_available() // 2))
    with Bed() as bed:
        bed.serve("--addr", "10.66.0.1/16", "--port", "7", "--app", "echo", "--cores", "0", "--mode", "auto",
                  "--max-connections", str(count + 1000))
        r = report("load", *bed.end("b"), "--addr", "10.66.1.0-%s/16" % last, "--target", "10.66.0.1:7", "--profile", "hold",
                   *MESSAGE, "--connections", str(count), "--ramp", "%ds" % ramp, "--hold", "2", "--connect-timeout", "60s", "--timeout", "120s",
                   "--requests-per-connection", "2", "--cores", "1", "--mode", "auto")
    c, memory, worker = r["connections"], r["memory"], r["workers"][0]
    return memory["bytes_per_idle_connection"] or float("nan"), (
        "%d of %d held, opened within %d s, %d completed (%s); passes of the load generator's "
        "loop p99.9 %.0f, longest %.0f µs" % (c["held_max"], count, ramp, c["completed"], failures(c),
                                              worker["poll_p99_9_us"] or 0, worker["poll_max_us"] or 0))


def generated(connections, *args):
    return line(program("generated"), "--connections", str(connections), *args)


@functools.lru_cache(maxsize=1)
def grown(run, wanted, seconds):
    """tables that grow from nothing to `wanted` connections with peers that do not exist, and others that come and go beside
    them: one run, of which several things are measured"""
    count = affordable(wanted)
    warm(min(count * EACH + FIXED, memory_available() // 2))
    return generated(count, "--churn", str(seconds), "--pauses", str(seconds))


def many(a):
    return grown(a.run, a.grown, a.seconds)


def growth(a):
    r = many(a)
    wall, processor = r["poll_wall_us"], r["poll_processor_us"]
    return wall["p99_9"], (
        "%d connections at %d a second, %d requests answered; a pass: p50 %.1f, p99 %.1f, longest %.1f µs; by its processor "
        "time p99.9 %.1f µs" % (r["connections"], r["open_cps"], r["requests_answered"], wall["p50"], wall["p99"], wall["max"],
                                processor["p99_9"]))


def growth_longest(a):
    r = many(a)
    pauses = r["pauses"][0]
    return r["poll_processor_us"]["max"], (
        "the longest ten, and octets that tables grew by in them: %s; a loop that only reads and writes memory was held up for "
        "%.0f µs at most in the %.0f s before, %d times for 1 ms and more" % (
            ", ".join("%.0f (%d)" % (each["processor_us"], each["grown_bytes"]) for each in r["longest"]),
            pauses["longest_us"], pauses["seconds"], pauses["over_1_ms"]))


def octets(a):
    r = many(a)
    return r["rss_bytes"] / r["connections"], "%d held; %.1f octets of table each" % (
        r["connections"], r["table_bytes_per_connection"])


def churn_beside(a):
    r = many(a)
    return r["churn_cps"], "beside %d held" % r["connections"]


def workers(count):
    """each on a core of its own, none held"""
    def measure(a):
        r = generated(0, "--churn", str(a.seconds), "--workers", str(count))
        if count == 1:
            return r["churn_cps"], None
        return r["churn_cps"], (
            "%d frames on the wrong core; as many threads that share nothing do %.2f times what one does at arithmetic, %.2f "
            "times at random reads of memory" % (r["wrong_core"], *r["control"].values()))
    return measure


def idle(a):
    """keep-alive for connections that nobody talks on; the time is such that each is probed once"""
    count = affordable(a.idle)
    warm(min(count * EACH + FIXED, memory_available() // 2))
    r = generated(count, "--churn", "0", "--keepalive", str(a.keepalive), "--idle", str(a.keepalive + 1))
    each = r["idle"][0]
    return each["busy_ratio"], "%d connections, keep-alive %d s: %d probes sent and answered; %.2f in the busiest second" % (
        r["connections"], a.keepalive, each["probes"], each["busiest_second_ratio"])


def queues(count):
    """requests on a veth pair with so many queues, a worker of either end on each, the ends share the cores"""
    def measure(a):
        cores = ",".join(map(str, range(count)))
        with Bed("--queues", str(count)) as bed:
            bed.serve("--addr", "10.66.0.1/16", "--port", "80", "--app", "respond", *MESSAGE, "--cores", cores, "--mode", "auto")
            r = report("load", *bed.end("b"), "--addr", "10.66.1.0-10.66.16.255/16", "--target", "10.66.0.1:80",
                       "--profile", "crr", "--piggyback", *MESSAGE, "--concurrency", "512", "--duration", str(a.seconds),
                       "--cores", cores, "--mode", "auto")
        sums = {key: sum(worker[key] or 0 for worker in r["workers"]) for key in ("handed_over", "wrong_core")}
        return r["rate"]["achieved_cps"], "%d frames handed over, %d on the wrong core; %s" % (*sums.values(), seen(r))
    return measure


# Says in the namespace of the other end when the first SYN came
FIRST_SYN = """
import socket, sys, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind((sys.argv[1], 3))
print("ready", flush=True)
while True:
    f = s.recv(2048)
    if f[12:14] == b"\\x08\\x00" and f[23] == 6 and f[47] & 0x3f == 2:
        print(time.time(), flush=True)
        break
"""


def start(a):
    """from the start of the program to its first SYN on the wire, ms"""
    with Bed("--kernel-a", "10.66.0.1/16") as bed:
        watch = bed.start(*bed.inside("a", 0), sys.executable, "-c", FIRST_SYN, bed.device("a"))
        began = time.time()
        load = subprocess.Popen([SYNCLINE, "load", *bed.end("b"), "--addr", "10.66.1.1/16", "--target", "10.66.0.1:9",
                                 "--profile", "connect", "--count", "1", "--concurrency", "1", "--cores", "1"],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        first = float(watch.stdout.readline())
        load.wait()
    return (first - began) * 1e3, None


def start_memory(a):
    """resident memory of a server that is ready, MiB"""
    with Bed() as bed:
        server = bed.respond()
        time.sleep(0.2)
        with open("/proc/%d/status" % server.pid) as f:
            status = dict(row.split(":", 1) for row in f)
    # the kernel counts reserved huge pages apart
    small, huge = (int(status[name].split()[0]) / 1024 for name in ("VmRSS", "HugetlbPages"))
    return small + huge, "%.0f MiB of it reserved huge pages" % huge
