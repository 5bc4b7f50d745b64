#!/usr/bin/env bash
# Runs a command as root, through sudo if need be.
set -euo pipefail

if [ "$(id -u)" -eq 0 ]; then
    exec "$@"
fi
exec sudo "$@"
