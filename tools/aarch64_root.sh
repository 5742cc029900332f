#!/usr/bin/env bash
# Makes a folder in which qemu-user runs Python and TFLite's runtime as on a 64-bit ARM:
#
#     sudo apt-get install qemu-user-static
#     bash tools/aarch64_root.sh FOLDER [VERSION OF ai-edge-litert]
#
# Needs Debian, whose archive holds arm64, and pip. Nothing of the machine is changed: apt
# gets its own lists and an empty record of what is installed.
set -euo pipefail
folder=$(realpath -m "$1")
litert="ai-edge-litert${2:+==$2}"
python=${PYTHON:-python3}
apt="$folder/apt" root="$folder/root"

mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$root/proc"
: > "$apt/status"
arm=(-o APT::Architecture=arm64 -o APT::Architectures::=arm64
     -o Dir::State="$apt" -o Dir::State::status="$apt/status" -o Dir::State::lists="$apt/lists"
     -o Dir::Cache="$apt" -o APT::Sandbox::User=)
apt-get "${arm[@]}" -qq update
apt-get "${arm[@]}" -qq -y --no-install-recommends --download-only install python3 libstdc++6
for package in "$apt"/archives/*.deb; do
  dpkg-deb -x "$package" "$root"
done

# XNNPACK chooses its kernels by what this file says of the processor; qemu shows the
# file of the folder in place of the machine's own. It must fit `-cpu cortex-a76`.
cat > "$root/proc/cpuinfo" <<'CPUINFO'
processor	: 0
BogoMIPS	: 48.00
Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x1
CPU part	: 0xd0b
CPU revision	: 0
CPUINFO

minor=$(basename "$(readlink "$root/usr/bin/python3")")
platforms=()
for glibc in 2014 _2_17 _2_26 _2_27 _2_28; do
  platforms+=(--platform "manylinux${glibc}_aarch64")
done
"$python" -m pip install --quiet --upgrade --target "$folder/site" --only-binary=:all: \
    --python-version "${minor#python}" "${platforms[@]}" "$litert"

cat > "$folder/python" <<PYTHON
#!/bin/sh
exec qemu-aarch64-static -cpu cortex-a76 -L "$root" -E PYTHONHOME="$root/usr" \\
    -E PYTHONPATH="$folder/site" "$root/usr/bin/$minor" "\$@"
PYTHON
chmod +x "$folder/python"
"$folder/python" -c 'import platform, sys; from ai_edge_litert import interpreter; print(sys.version.split()[0], platform.machine())'
