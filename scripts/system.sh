#!/bin/sh
# Install what the tests need from the system: iproute2, for hosts in network namespaces. What else they are built and run
# with, Go, Node and Java, is only looked for, so that it is said at the start and not after half an hour.
# Nothing is installed where it is there already; without root it says what to install.
set -eu
lacking=
for tool in go node npm java javac mvn; do
    command -v "$tool" >/dev/null 2>&1 || lacking="$lacking $tool"
done
if [ -n "$lacking" ]; then
    echo "Error: the tests with programs that others wrote, and those on a cluster, need$lacking: install Go, Node and a JDK with Maven" >&2
    exit 1
fi
if command -v ip >/dev/null 2>&1; then
    echo 'ip: here'
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo 'Error: the tests with several hosts need iproute2 (the program "ip"); install it and run this again' >&2
    exit 1
fi
apt-get update -qq && apt-get install -y -qq iproute2
