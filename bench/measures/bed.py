"""Programs, test beds, and what a run returns."""
import contextlib
import json
import mmap
import os
import platform
import re
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RELEASE = os.path.join(TOP, "target", "release")
SYNCLINE = os.path.join(RELEASE, "syncline")
# Octets in reserve for the tables while measuring: twenty million connections and what closes beside them
RESERVE = 3 << 30

HUGE_PAGES, HUGE_PAGE = "/proc/sys/vm/nr_hugepages", 2 << 20
# Linux's, which Python has no name for
MAP_HUGETLB = 0x40000
# Request and response of every transaction, octets
MESSAGE = ["--request-bytes", "64", "--response-bytes", "64"]


def call(*args, **kw):
    return subprocess.run(args, check=True, stdout=subprocess.PIPE, text=True, **kw).stdout


def line(*args):
    """runs one of our own programs that writes a line of JSON"""
    return json.loads(call(*args).splitlines()[-1])


def program(name):
    return os.path.join(RELEASE, name)


def report(*args):
    """runs syncline with --json and returns the report; a verdict is no error here"""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        done = subprocess.run([SYNCLINE, *args, "--json", out.name], stdout=subprocess.DEVNULL)
        if done.returncode in (1, 2, 3):
            sys.exit("bench/run: `syncline %s` ended with exit %d" % (" ".join(args), done.returncode))
        with open(out.name) as f:
            return json.load(f)


def machine():
    """what this is measured on"""
    with open("/proc/cpuinfo") as f:
        cpu = re.search(r"model name\s*:\s*(.*)", f.read())
    return "%s, %d cores, Linux %s" % (cpu.group(1) if cpu else platform.machine(), os.cpu_count(), platform.release())


class Bed:
    """a veth pair between two namespaces; it and what was started in it are gone at the end"""

    SERIAL = 0

    def __init__(self, *args):
        Bed.SERIAL += 1
        self.name = "sb%dx%d" % (os.getpid(), Bed.SERIAL)
        self.args = args
        self.children = []

    def __enter__(self):
        call(SYNCLINE, "veth", "up", "--name", self.name, *self.args)
        return self

    def __exit__(self, *_):
        for child in list(self.children):
            self.stop(child)
        call(SYNCLINE, "veth", "down", "--name", self.name)

    def device(self, end):
        return "%s-%s0" % (self.name, end)

    def end(self, end):
        return ["--netns", "%s-%s" % (self.name, end), "--dev", self.device(end)]

    def inside(self, end, core):
        """what a program's words are preceded by to run in a namespace and on a core"""
        return ["ip", "netns", "exec", "%s-%s" % (self.name, end), "taskset", "-c", str(core)]

    def start(self, *args, ready="ready", **kw):
        child = subprocess.Popen(args, stdout=subprocess.PIPE, text=True, **kw)
        self.children.append(child)
        if ready and child.stdout.readline().strip() != ready:
            sys.exit("bench/run: `%s` did not start" % " ".join(args))
        return child

    def stop(self, child):
        self.children.remove(child)
        child.terminate()
        child.communicate()

    def nginx(self, directory, text, core=0):
        """nginx on end b, which answers at 10.9.0.2:80"""
        with open(directory + "/nginx.conf", "w") as f:
            f.write(text)
        child = self.start(*self.inside("b", core), "nginx", "-p", directory, "-c", directory + "/nginx.conf", "-e", "stderr", "-g",
                           "daemon off; pid %s/nginx.pid;" % directory, ready=None)
        while subprocess.run([*self.inside("b", core), "curl", "-so", "/dev/null", "http://10.9.0.2/"]).returncode:
            if child.poll() is not None:
                sys.exit("%s: nginx did not start" % sys.argv[0])
            time.sleep(0.05)
        return child

    def serve(self, *args):
        return self.start(SYNCLINE, "serve", *self.end("a"), *args)

    def respond(self, *args):
        return self.serve("--addr", "10.66.0.1/16", "--port", "80", "--app", "respond", *MESSAGE, "--cores", "0", *args)

    def segments(self, end):
        """TCP segments that a namespace's kernel has received and sent"""
        text = call("ip", "netns", "exec", "%s-%s" % (self.name, end), "cat", "/proc/net/snmp")
        names, values = (row.split()[1:] for row in text.splitlines() if row.startswith("Tcp:"))
        tcp = dict(zip(names, map(int, values)))
        return tcp["InSegs"], tcp["OutSegs"]


def warm(octets=1 << 30):
    """touches memory: a virtual machine may get it from its host only then, at a hundred times the cost"""
    with mmap.mmap(-1, octets) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        touch(memory)


def touch(memory):
    for page in range(0, len(memory), 4096):
        memory[page] = 1


@contextlib.contextmanager
def huge_pages():
    """huge pages of 2 MiB in reserve, as many as `RESERVE` makes or a quarter of the memory allows, each touched once: what
    the engine's tables grow into without asking the host. Yields how many; the number is put back as it was at the end"""
    with open(HUGE_PAGES) as f:
        before = int(f.read())
    try:
        reserve(max(before, min(RESERVE, memory_available() // 4) // HUGE_PAGE))
        free = memory_field("HugePages_Free:")
        if free:
            with mmap.mmap(-1, free * HUGE_PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_HUGETLB) as memory:
                touch(memory)
        yield free
    finally:
        reserve(before)


def reserve(pages):
    with open(HUGE_PAGES, "w") as f:
        f.write(str(pages))


def memory_available():
    return memory_field("MemAvailable:") << 10


def memory_field(name):
    with open("/proc/meminfo") as f:
        return next(int(row.split()[1]) for row in f if row.startswith(name))
