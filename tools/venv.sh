#!/usr/bin/env bash
# usage: tools/venv.sh EXTRA
# Make .venv and install this package into it with the extra of setup.py that is named: what is
# missing, once. Where a ROS 2 installation is sourced .venv uses it; elsewhere its wheels go in.
set -euo pipefail
cd "$(dirname "$0")/.."
export PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# the ROS wheels mark the environment of every child process as theirs; this .venv has its own
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE

extra=$1
torch=${TORCH:-}
python=.venv/bin/python
busy=.venv/installing      # stands while packages are being installed

fail() { echo "$*" >&2; exit 1; }

# A pip that failed by itself left nothing half done, one that was interrupted may have.
trap 'exit 130' INT TERM
install() {
    "$python" -m pip install -qq "$@" && return
    rm -f "$busy"
    fail 'The installation failed: see above.'
}

usable() {
    "$1" -c 'import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info < (3, 13))'
} 2>/dev/null

# A Python that sees the sourced ROS 2, else any.
find_python() {
    local candidate found=
    for candidate in python3.12 python3.11 python3.10 python3; do
        usable "$candidate" || continue
        found=${found:-$candidate}
        [ -n "${ROS_DISTRO:-}${AMENT_PREFIX_PATH:-}" ] || break
        "$candidate" -c 'import rclpy' 2>/dev/null && { found=$candidate; ros=true; break; }
    done
    [ -n "$found" ] || fail 'Python 3.10, 3.11 or 3.12 with venv is needed;' \
        'on Debian or Ubuntu: apt install python3 python3-venv'
    [ -z "${ROS_DISTRO:-}" ] || $ros || fail "ROS_DISTRO is $ROS_DISTRO, but no Python 3.10-3.12" \
        'with venv can import rclpy: source its setup.bash; on Ubuntu: apt install python3-venv'
    base=$found
}

ros=false
find_python
if grep -qsx 'include-system-site-packages = true' .venv/pyvenv.cfg; then had_ros=true
else had_ros=false; fi

# an interrupted installation may have left half a package that pip takes for a whole one
if [ -e "$busy" ]; then
    echo 'The last installation was interrupted: making .venv anew.'
    rm -rf .venv
elif [ -e .venv/pyvenv.cfg ] && [ $ros != $had_ros ]; then
    fail ".venv was made $($had_ros && echo with || echo without) a ROS 2 installation;" \
        "now $($ros && echo one is || echo none is) sourced: make clean first"
fi
if ! "$python" -m pip --version >/dev/null 2>&1; then
    echo "Making .venv with $base."
    "$base" -m venv $($ros && echo --system-site-packages) .venv
fi

key=$({ cat setup.py "$0"; echo "$PWD $extra $torch $ros"; "$python" -VV; } | cksum | cut -d' ' -f1)
stamp=.venv/installed-$extra-$key
[ ! -e "$stamp" ] || exit 0

touch "$busy"
constraints=.venv/constraints.txt
: > "$constraints"
if $ros; then
    # ROS messages are compiled against the system's numpy: keep to it
    "$python" -c 'import numpy; print("numpy==" + numpy.__version__)' > "$constraints" || true
    extras=$extra
else
    extras=$extra,ros
fi
# torch goes first and by itself: how it is built (CUDA or not) is the user's choice
if [ -n "$torch" ] && ! "$python" -c '
import importlib.metadata, sys
version = importlib.metadata.version("torch").split(".")
sys.exit((int(version[0]), int(version[1])) < (2, 8))' 2>/dev/null; then
    echo "Installing $torch ..."
    install $torch
fi
echo "Installing diffusion_policy_rt [$extras], a few minutes the first time ..."
install -c "$constraints" -e ".[$extras]"
if [ "$extra" = test ]; then  # it builds engines without a GPU; there are no wheels for every machine
    "$python" -m pip install -qq tensorrt-rtx 2>/dev/null ||
        echo 'tensorrt-rtx cannot be installed here: the tests that build with it are skipped.'
fi
rm -f .venv/installed-"$extra"-* "$busy"
touch "$stamp"
