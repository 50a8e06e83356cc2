#!/usr/bin/env bash
# Brings what `make run` and `make test` need and this machine lacks; says nothing when that is nothing.
#
# From the system's package manager: redis-server, a C compiler and make (aws-lc is C), python3 with venv.
# From PyPI, into .tools/venv: cargo-lambda, in the one version that the tests run with, whatever is on the PATH.
#
# `setup.sh test` brings what the tests need besides: moto from PyPI, into .tools/aws-venv, which they have in AWS's place, with
# the two packages that its server needs of all its extras.
#
# `setup.sh sam` brings what deploying and its checks need besides: the SAM CLI from PyPI, into .tools/sam, where its many
# dependencies meet nobody's, with airspeed, which runs the gateway's mapping templates.
#
# `setup.sh arm64` brings what running the functions as built needs, where this machine is no arm64: the package manager's
# emulator of one, with a C library. Deploying does not need it, and not every system has it.
#
# `setup.sh bench` brings valgrind, which counts instructions, and binutils.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

CARGO_LAMBDA_VERSION=1.9.2
VENV=.tools/venv
MOTO_VERSION=5.2.5
AWS_VENV=.tools/aws-venv
SAM_VERSION=1.170.0
AIRSPEED_VERSION=0.6.9
SAM=.tools/sam

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
    [ -n "$manager" ] || fail "these are missing, and there is no package manager that I know: $*; install them yourself"

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
            brew:valgrind | brew:binutils) return 0 ;; # The benchmark does without what they tell.
            *:valgrind) packages+=(valgrind) ;;
            *:binutils) packages+=(binutils) ;;
            apt-get:emulator) packages+=(qemu-user libc6-arm64-cross) ;;
            *:emulator) return 0 ;; # Others have no arm64 C library to go with it; what to install is said by who asked.
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
                # Wanted here as a program, not as a service of this machine, at its next start either.
                "${root[@]}" systemctl disable redis-server >/dev/null 2>&1 || true
            fi
            ;;
        dnf) quietly "${root[@]}" dnf install --assumeyes "${packages[@]}" ;;
        apk) quietly "${root[@]}" apk add "${packages[@]}" ;;
        brew) quietly brew install "${packages[@]}" ;;
    esac
}

# Debian starts a service when it installs one, unless /usr/sbin/policy-rc.d says no. Ours says so until this script
# ends; the machine's own, if it has one, is put back then.
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

# Package managers talk a lot; only a failure is worth reading.
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
    # A virtual environment breaks when its Python is upgraded or the folder moves: make it anew.
    "$VENV/bin/python3" -m pip --version >/dev/null 2>&1 || quietly python3 -m venv --clear "$VENV"
    quietly "$VENV/bin/python3" -m pip install --disable-pip-version-check "cargo-lambda==$CARGO_LAMBDA_VERSION"
}

# --- moto -------------------------------------------------------------------------------------------------------

install_moto() {
    # The name of its folder says which version it is; running Python to ask takes longer.
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

runs_arm64() {
    case "$(uname -m)" in
        aarch64 | arm64) return 0 ;;
        *) has qemu-aarch64 && [ -e /usr/aarch64-linux-gnu/lib/ld-linux-aarch64.so.1 ] ;;
    esac
}

main "$@"
