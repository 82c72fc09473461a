#!/bin/sh
# Make the archive that every image begins with: Debian's Python and the libraries it needs, and nothing else: no shell, no
# package manager, no compiler, no pip. The same packages give the same archive, byte for byte.
# Usage: SOURCE_DATE_EPOCH=SECONDS deploy/images/base.sh FOLDER
# Writes FOLDER/base.tar, and FOLDER/busybox for the one image that people work in. DEBIAN_MIRROR names another mirror,
# such as a snapshot of one day. Needs root, and mmdebstrap.
set -eu
: "${1:?the folder to write to}" "${SOURCE_DATE_EPOCH:?the time that every file is given}"
folder=$(mkdir -p "$1" && cd "$1" && pwd)
suite=bookworm python=python3.11
# What the others name as needed for their scripts, which never run here.
unwanted='dpkg perl-base debconf openssl tar media-types libselinux1 libpcre2-8-0 libacl1 libmd0 busybox-static'
if ! command -v mmdebstrap >/dev/null 2>&1; then
    echo 'Error: no mmdebstrap; apt-get install --no-install-recommends mmdebstrap, or give an archive that was made elsewhere' >&2
    exit 1
fi
export SOURCE_DATE_EPOCH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir "$work/debs"
mmdebstrap --quiet --variant=extract --include="$python,libstdc++6,ca-certificates,busybox-static" \
    --aptopt='APT::Install-Recommends "false"' --extract-hook="cp \"\$1\"/var/cache/apt/archives/*.deb '$work/debs/'" \
    "$suite" "$root" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} 2>"$work/log" || { cat "$work/log" >&2; exit 1; }

cp "$root/bin/busybox" "$folder/busybox"
mkdir -p "$root/var/lib/dpkg/status.d"
for deb in "$work"/debs/*.deb; do
    name=$(dpkg-deb --field "$deb" Package)
    case " $unwanted " in
        *" $name "*) dpkg-deb --fsys-tarfile "$deb" | tar -t | grep -v '/$' | (cd "$root" && xargs -d '\n' rm -f) ;;
        # Where scanners of images look for packages that were unpacked without dpkg.
        *) dpkg-deb --field "$deb" > "$root/var/lib/dpkg/status.d/$name" ;;
    esac
done
rm -rf "$root/etc/apt" "$root/var/lib/apt" "$root/etc/dpkg" "$root/etc/resolv.conf" "$root/etc/hostname"
mkdir -p "$root/var/cache" "$root/var/log" "$root/tmp" "$root/run" "$root/proc" "$root/sys" "$root/dev"
find "$root/var/cache" "$root/var/log" "$root/tmp" "$root/run" -mindepth 1 -delete

# What nobody reads or runs in an image. The licences stay.
find "$root/usr/share/doc" ! -type d ! -name copyright -delete
for gone in man locale info lintian perl perl5 bash-completion applications pixmaps menu bug; do
    rm -rf "${root:?}/usr/share/$gone"
done
rm -rf "$root"/usr/lib/*/gconv "$root/usr/share/gdb" "$root/usr/share/gcc"
for gone in lib2to3 pydoc_data ensurepip idlelib turtledemo test; do
    rm -rf "$root/usr/lib/$python/$gone"
done
find "$root" -mindepth 1 -type d -empty -path '*/share/*' -delete
# What the packages' scripts would have made.
ln -sf "$python" "$root/usr/bin/python3"
cat "$root"/usr/share/ca-certificates/mozilla/*.crt > "$root/etc/ssl/certs/ca-certificates.crt"
printf 'root:x:0:0:root:/:/usr/sbin/nologin\ntacit:x:65532:65532:tacit:/run/tacit:/usr/sbin/nologin\n' > "$root/etc/passwd"
printf 'root:x:0:\ntacit:x:65532:\n' > "$root/etc/group"
printf 'hosts: files dns\npasswd: files\ngroup: files\n' > "$root/etc/nsswitch.conf"
mkdir -p "$root/run/tacit" "$root/encrypted" "$root/models"
chown 65532:65532 "$root/run/tacit"
chmod 1777 "$root/tmp"
chroot "$root" /sbin/ldconfig 2>/dev/null || ldconfig -r "$root"
rm -rf "$root/var/cache/ldconfig"
# Byte code goes with its source by the source's hash: a read-only image cannot write it, and times are all the same here.
PYTHONHASHSEED=0 chroot "$root" "/usr/bin/$python" -m compileall -q --invalidation-mode unchecked-hash "/usr/lib/$python"

tar --sort=name --format=posix --pax-option=delete=atime,delete=ctime --mtime="@$SOURCE_DATE_EPOCH" --numeric-owner \
    --exclude=./dev/* --exclude=./proc/* --exclude=./sys/* -C "$root" -cf "$work/base.tar" .
mv "$work/base.tar" "$folder/base.tar"
