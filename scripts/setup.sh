#!/usr/bin/env bash
# Installs the packages that building and testing need, those that are missing only.
set -euo pipefail

# To build: the XDP program and libxdp.
build=(clang llvm gcc libelf-dev libbpf-dev m4 make pkg-config zlib1g-dev)
# To run and to test: the test bed, and the programs that the engine is tested against.
run=(iproute2 ethtool nftables nginx-light curl wrk socat ncat tcpdump python3 strace valgrind)

installed() {
    [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

if ! command -v apt-get >/dev/null; then
    echo "setup: no apt-get here; install the equivalents of: ${build[*]} ${run[*]}" >&2
    exit 0
fi

missing=()
for package in "${build[@]}" "${run[@]}"; do
    # Any nginx will do.
    if [ "$package" = nginx-light ] && command -v nginx >/dev/null; then continue; fi
    installed "$package" || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

sudo=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "setup: missing ${missing[*]}; as root: apt-get install ${missing[*]}" >&2
        exit 1
    fi
    sudo=(sudo)
fi
echo "setup: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
"${sudo[@]}" apt-get update --quiet
"${sudo[@]}" apt-get install --quiet --yes --no-install-recommends "${missing[@]}"
