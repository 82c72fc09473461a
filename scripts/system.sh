#!/bin/sh
# Install what the tests need from the system: iproute2, for hosts in network namespaces.
# Nothing is installed where it is there already; without root it says what to install.
set -eu
if command -v ip >/dev/null 2>&1; then
    echo 'ip: here'
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo 'Error: the tests with several hosts need iproute2 (the program "ip"); install it and run this again' >&2
    exit 1
fi
apt-get update -qq && apt-get install -y -qq iproute2
