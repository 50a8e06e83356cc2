#!/usr/bin/env bash
# Installs what `make run` and `make test` need and this machine lacks. Prints nothing when nothing is missing.
#
# From the system's package manager: redis-server, a C compiler and make (aws-lc is C), python3 with venv.
# From PyPI, into .tools/venv: cargo-lambda, in the version that the tests run with, whatever version is on the PATH.
#
# `setup.sh test` also installs moto from PyPI, into .tools/aws-venv: it takes the place of AWS in the tests. Of its
# many optional dependencies only the two that its server needs are installed.
#
# `setup.sh sam` also installs the SAM CLI from PyPI, into .tools/sam, where its many dependencies cannot conflict with
# others, and airspeed, which runs the gateway's mapping templates.
#
# `setup.sh arm64` also installs the package manager's arm64 emulator and an arm64 C library, unless this machine is
# arm64. The check of the built functions needs them; deploying does not, and not every system has them.
#
# `setup.sh bench` also installs valgrind, which counts instructions, and binutils.
#
# `setup.sh python` also installs ruff from PyPI, into .tools/python.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

CARGO_LAMBDA_VERSION=1.9.2
VENV=.tools/venv
MOTO_VERSION=5.2.5
AWS_VENV=.tools/aws-venv
SAM_VERSION=1.170.0
AIRSPEED_VERSION=0.6.9
SAM=.tools/sam
RUFF_VERSION=0.17.6
RUFF=.tools/python

main() {
    has cargo || fail "Rust is missing; install it with rustup (https://rustup.rs) and run this again"

    local missing=()
    has redis-server && has redis-cli || missing+=(redis)
    has cc || has gcc || has clang || missing+=(compiler)
    has make || missing+=(make)
    has python3 || missing+=(python)
    if has python3 && [ ! -x "$VENV/bin/python3" ]; then
        python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(venv)
    fi
    [ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"

    has redis-server || fail "redis-server is missing; install Redis 6 or later and put it on the PATH"
    has python3 || fail "python3 is missing; install Python 3.9 or later"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' || fail "python3 is too old; install Python 3.9 or later"
    install_cargo_lambda
    case "${1:-}" in
        test) install_moto ;;
        bench)
            has valgrind || install_packages valgrind
            has nm && has strip || install_packages binutils
            ;;
        sam) install_sam ;;
        python) install_ruff ;;
        arm64)
            runs_arm64 || install_packages emulator
            runs_arm64 || fail "arm64 programs do not run here; install qemu-aarch64, and an arm64 C library in /usr/aarch64-linux-gnu"
            ;;
    esac
}

has() { command -v "$1" >/dev/null 2>&1; }

fail() {
    echo "setup: $1." >&2
    exit 1
}

# --- the system's packages --------------------------------------------------------------------------------------

install_packages() {
    local manager
    for manager in apt-get dnf apk brew; do
        has "$manager" && break
        manager=
    done
    [ -n "$manager" ] || fail "these are missing, and no supported package manager was found: $*; install them yourself"

    local packages=() need
    for need in "$@"; do
        case "$manager:$need" in
            apt-get:redis) packages+=(redis-server) ;;
            *:redis) packages+=(redis) ;;
            apt-get:compiler) packages+=(gcc libc6-dev) ;;
            dnf:compiler) packages+=(gcc) ;;
            apk:compiler) packages+=(gcc musl-dev) ;;
            brew:compiler | brew:make) fail "a C compiler and make are missing; run: xcode-select --install" ;;
            *:make) packages+=(make) ;;
            apt-get:python) packages+=(python3 python3-venv) ;;
            *:python) packages+=(python3) ;;
            apt-get:venv) packages+=(python3-venv) ;;
            brew:valgrind | brew:binutils) return 0 ;; # The benchmark runs without them and leaves their figures out.
            *:valgrind) packages+=(valgrind) ;;
            *:binutils) packages+=(binutils) ;;
            apt-get:emulator) packages+=(qemu-user libc6-arm64-cross) ;;
            *:emulator) return 0 ;; # Others have no matching arm64 C library; the caller prints what to install.
            *:venv) fail "python3 has no venv module; install a Python 3.9 or later that has one" ;;
        esac
    done

    local root=()
    if [ "$manager" != brew ] && [ "$(id -u)" -ne 0 ]; then
        has sudo || fail "these packages are missing: ${packages[*]}; install them with $manager as root"
        root=(sudo)
    fi

    echo "setup: installing ${packages[*]} with $manager"
    case "$manager" in
        apt-get)
            [[ " ${packages[*]} " != *" redis-server "* ]] || keep_services_stopped
            quietly "${root[@]}" apt-get update
            quietly "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
                apt-get install --yes --no-install-recommends "${packages[@]}"
            if [[ " ${packages[*]} " == *" redis-server "* ]] && has systemctl; then
                # Only the program is needed: this machine must not run it as a service, after its next start either.
                "${root[@]}" systemctl disable redis-server >/dev/null 2>&1 || true
            fi
            ;;
        dnf) quietly "${root[@]}" dnf install --assumeyes "${packages[@]}" ;;
        apk) quietly "${root[@]}" apk add "${packages[@]}" ;;
        brew) quietly brew install "${packages[@]}" ;;
    esac
}

# Debian starts a service when it installs one, unless /usr/sbin/policy-rc.d forbids it. This script puts one there that
# forbids it, and restores the machine's own, if it has one, when it ends.
POLICY=/usr/sbin/policy-rc.d
keep_services_stopped() {
    local ours
    ours=$(mktemp)
    printf '#!/bin/sh\nexit 101\n' >"$ours"
    trap restore_policy EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    if [ -e "$POLICY" ] && [ ! -e "$POLICY.before-setup" ]; then
        "${root[@]}" mv "$POLICY" "$POLICY.before-setup"
    fi
    "${root[@]}" install -m 755 "$ours" "$POLICY"
    rm -f "$ours"
}

restore_policy() {
    local root=()
    [ "$(id -u)" -eq 0 ] || root=(sudo)
    if [ -e "$POLICY.before-setup" ]; then
        "${root[@]}" mv "$POLICY.before-setup" "$POLICY"
    else
        "${root[@]}" rm -f "$POLICY"
    fi
}

# Runs a command and shows its output only if it fails.
quietly() {
    local log status=0
    log=$(mktemp)
    "$@" >"$log" 2>&1 </dev/null || status=$?
    if [ "$status" -ne 0 ]; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        fail "this failed, see above: $*"
    fi
    rm -f "$log"
}

# --- cargo-lambda -----------------------------------------------------------------------------------------------

install_cargo_lambda() {
    local version
    version=$("$VENV/bin/cargo-lambda" lambda --version 2>/dev/null || true)
    [[ "$version" != "cargo-lambda $CARGO_LAMBDA_VERSION "* ]] || return 0

    echo "setup: installing cargo-lambda $CARGO_LAMBDA_VERSION into $VENV"
    # A virtual environment breaks when its Python is upgraded or its folder moves: then it is made again.
    "$VENV/bin/python3" -m pip --version >/dev/null 2>&1 || quietly python3 -m venv --clear "$VENV"
    quietly "$VENV/bin/python3" -m pip install --disable-pip-version-check "cargo-lambda==$CARGO_LAMBDA_VERSION"
}

# --- moto -------------------------------------------------------------------------------------------------------

install_moto() {
    # The version is read from the name of a folder, because starting Python takes longer.
    compgen -G "$AWS_VENV/lib/python*/site-packages/moto-$MOTO_VERSION.dist-info" >/dev/null \
        && "$AWS_VENV/bin/python3" -c '' 2>/dev/null && return 0

    echo "setup: installing moto $MOTO_VERSION into $AWS_VENV"
    quietly python3 -m venv --clear "$AWS_VENV"
    quietly "$AWS_VENV/bin/python3" -m pip install --disable-pip-version-check \
        "moto==$MOTO_VERSION" flask==3.1.3 flask-cors==6.0.5
}

# --- the SAM CLI ------------------------------------------------------------------------------------------------

install_sam() {
    local version
    version=$("$SAM/bin/sam" --version 2>/dev/null || true)
    if [ "$version" = "SAM CLI, version $SAM_VERSION" ] && "$SAM/bin/python3" -c 'import airspeed' 2>/dev/null; then
        return 0
    fi

    echo "setup: installing the SAM CLI $SAM_VERSION into $SAM"
    "$SAM/bin/python3" -m pip --version >/dev/null 2>&1 || quietly python3 -m venv --clear "$SAM"
    quietly "$SAM/bin/python3" -m pip install --disable-pip-version-check "aws-sam-cli==$SAM_VERSION" "airspeed-ext==$AIRSPEED_VERSION"
}

# --- ruff -------------------------------------------------------------------------------------------------------

install_ruff() {
    [ "$("$RUFF/bin/ruff" --version 2>/dev/null || true)" != "ruff $RUFF_VERSION" ] || return 0

    echo "setup: installing ruff $RUFF_VERSION into $RUFF"
    quietly python3 -m venv --clear "$RUFF"
    quietly "$RUFF/bin/python3" -m pip install --disable-pip-version-check "ruff==$RUFF_VERSION"
}

# --- arm64 ------------------------------------------------------------------------------------------------------

runs_arm64() {
    case "$(uname -m)" in
        aarch64 | arm64) return 0 ;;
        *) has qemu-aarch64 && [ -e /usr/aarch64-linux-gnu/lib/ld-linux-aarch64.so.1 ] ;;
    esac
}

main "$@"
