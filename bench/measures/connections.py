"""Connections a second: open, 64 octets each way, the server's FIN with its response, close."""
import os
import re
import tempfile
import time

from .bed import MESSAGE, Bed, call, line, program, report

NGINX = """
daemon off; pid %(dir)s/nginx.pid; error_log stderr crit; worker_processes 1;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 1; server { listen 10.66.0.1:80; location / { return 200 "x"; } } }
"""
KERNELS = ["--kernel-a", "10.66.0.1/16", "--kernel-b", "10.66.1.1/16"]


def failures(c):
    """how many connections failed, and of what"""
    return ", ".join("%d %s" % (n, cause) for cause, n in c["failed"].items() if n) or "none failed"


def seen(r):
    """how slow connects were, how many packets each took, and whether all went well"""
    connect, packets, c = r["latency_us"]["connect"], r["packets"], r["connections"]
    return ("connect p50 %.0f, p99 %.0f, p99.9 %.0f µs; %.2f + %.2f packets; %.3f doorbells per packet; %d of %d completed (%s), "
            "%d SYNs sent again" % (
                connect["p50"], connect["p99"], connect["p99_9"], packets["tx_per_connection"],
                packets["rx_per_connection"], r["syscalls"]["per_packet"],
                c["completed"], c["attempted"], failures(c), c["syn_retransmitted"]))


def ring(a):
    r = report("bench", "ring", "--profile", "crr", "--piggyback", "--duration", str(a.seconds))
    return r["rate"]["achieved_cps"], seen(r)


def veth(*ways, at_once=512, piggyback=True):
    """three packets each way with the request on the handshake's ACK, otherwise four and three; `ways`: flags for both ends"""
    def measure(a):
        with Bed() as bed:
            bed.respond(*ways)
            r = report("load", *bed.end("b"), "--addr", "10.66.1.0-10.66.16.255/16", "--target", "10.66.0.1:80", "--profile",
                       "crr", *["--piggyback"][:piggyback], *MESSAGE, "--concurrency", str(at_once), "--duration",
                       str(a.seconds), "--cores", "1", *ways)
        return r["rate"]["achieved_cps"], seen(r)
    return measure


def raw(octets, *ways):
    """frames both ways at once, by nothing but the device"""
    def measure(a):
        with Bed() as bed:
            r = report("bench", "raw", "--name", bed.name, "--frame-bytes", str(octets), "--duration", str(a.seconds), *ways)
        return r["raw"]["frames_per_s"], "%.0f frames a call" % (r["packets"]["tx"] / max(1, r["raw"]["doorbells"]))
    return measure


def nginx_wrk(a):
    with tempfile.TemporaryDirectory() as directory, Bed(*KERNELS) as bed:
        conf = os.path.join(directory, "nginx.conf")
        with open(conf, "w") as f:
            f.write(NGINX % {"dir": directory})
        bed.start(*bed.inside("a", 0), "nginx", "-c", conf, "-e", "stderr", ready=None)
        time.sleep(1)
        out = call(*bed.inside("b", 1), "wrk", "-t1", "-c200", "-d%d" % a.seconds, "-H", "Connection: close",
                   "http://10.66.0.1/")
    return float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1)), None


def kernel_epoll(a):
    """our own pair on the kernel's TCP, made for this transaction alone"""
    addresses = 16
    with Bed(*KERNELS) as bed:
        for last in range(2, addresses + 1):
            call(*bed.inside("b", 1), "ip", "addr", "add", "10.66.1.%d/16" % last, "dev", bed.device("b"))
        bed.start(*bed.inside("a", 0), program("kernel"), "serve", "--listen", "10.66.0.1:80", "respond")
        before = bed.segments("b")
        r = line(*bed.inside("b", 1), program("kernel"), "load", "--target", "10.66.0.1:80", "--from", "10.66.1.1",
                 "--addresses", str(addresses), "--seconds", str(a.seconds), "--connections", "256", "crr")
        after = bed.segments("b")
    received, sent = ((late - early) / r["done"] for early, late in zip(before, after))
    return r["rate"], "whole connection p50 %.0f, p99 %.0f µs; %.2f + %.2f packets; %d failed of %d" % (
        r["p50_us"], r["p99_us"], sent, received, r["failed"], r["done"] + r["failed"])


def in_memory(stack, at_once):
    """both ends in one thread"""
    def measure(a):
        r = line("taskset", "-c", "1", program("memory"), stack, "--seconds", str(a.seconds), "--connections", str(at_once))
        return r["rate"], "%.2f packets per connection, both ways together" % r["packets_per_connection"]
    return measure
