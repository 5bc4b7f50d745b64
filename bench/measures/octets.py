"""Requests on connections that stay, and bulk transfer, at an MTU of 1,500."""
import json
import subprocess

from .bed import MESSAGE, Bed, call, line, program, report
from .connections import KERNELS

# More octets than ever come
ENDLESS = str(2**64 - 1)
CLIENTS = ["--addr", "10.66.1.1-10.66.1.100/16"]


def latency(r):
    t = r["latency_us"]["transaction"]
    return "p50 %.0f, p99 %.0f, p99.9 %.0f µs" % (t["p50"], t["p99"], t["p99_9"])


def rr(a, bed, target, mode):
    r = report("load", *bed.end("b"), *CLIENTS, "--target", target, "--profile", "rr", *MESSAGE, "--connections", "100",
               "--duration", str(a.seconds), "--cores", "1", "--mode", mode)
    return r["rate"]["requests_per_s"], latency(r)


def rr_engines(a):
    with Bed() as bed:
        bed.serve("--addr", "10.66.0.1/16", "--port", "7", "--app", "echo", "--cores", "0", "--mode", "auto")
        return rr(a, bed, "10.66.0.1:7", "auto")


def rr_engine_kernel(a):
    with Bed("--kernel-a", "10.66.0.1/16") as bed:
        bed.start(*bed.inside("a", 0), program("kernel"), "serve", "--listen", "10.66.0.1:7", "echo")
        return rr(a, bed, "10.66.0.1:7", "native")


def rr_kernels(a):
    with Bed(*KERNELS) as bed:
        bed.start(*bed.inside("a", 0), program("kernel"), "serve", "--listen", "10.66.0.1:7", "echo")
        r = line(*bed.inside("b", 1), program("kernel"), "load", "--target", "10.66.0.1:7", "--from", "10.66.1.1",
                 "--seconds", str(a.seconds), "--connections", "100", "rr")
    return r["rate"], "p50 %.0f, p99 %.0f µs; %d failed" % (r["p50_us"], r["p99_us"], r["failed"])


def bulk(connections, way):
    """Gbit/s on the link, headers included, one direction: at the load generator"""
    def measure(a):
        app, port = ("discard", "9") if way == "up" else ("chargen", "19")
        with Bed() as bed:
            bed.serve("--addr", "10.66.0.1/16", "--port", port, "--app", app, "--cores", "0", "--mode", "auto")
            talk = [] if way == "up" else ["--response-bytes", ENDLESS]
            r = report("load", *bed.end("b"), *CLIENTS, "--target", "10.66.0.1:" + port, "--profile", "bulk", *talk,
                       "--connections", str(connections), "--duration", str(a.seconds), "--cores", "1", "--mode", "auto")
        bits = r["rate"]["tx_bits_per_s" if way == "up" else "rx_bits_per_s"]
        return bits / 1e9, "%s segments sent again, %.3f doorbells per packet" % (
            r["packets"]["retransmitted"], r["syscalls"]["per_packet"])
    return measure


def raw_bulk(a):
    with Bed() as bed:
        r = report("bench", "raw", "--name", bed.name, "--mode", "native", "--frame-bytes", "1514", "--duration", str(a.seconds))
    return r["raw"]["bits_per_s"] / 1e9, "both directions together"


def iperf3(connections, offload):
    def measure(a):
        with Bed(*KERNELS) as bed:
            if not offload:
                for end in "ab":
                    call(*bed.inside(end, 1), "ethtool", "-K", bed.device(end), "tso", "off", "gso", "off", "gro", "off")
            bed.start(*bed.inside("a", 0), "iperf3", "-s", "-B", "10.66.0.1", "--forceflush",
                      ready="-" * 59, stderr=subprocess.DEVNULL)
            out = json.loads(call(*bed.inside("b", 1), "iperf3", "-c", "10.66.0.1", "-J", "-t", str(a.seconds), "-P",
                                  str(connections)))
        end = out["end"]
        return end["sum_received"]["bits_per_second"] / 1e9, "%d segments sent again; payload only" % end["sum_sent"]["retransmits"]
    return measure
