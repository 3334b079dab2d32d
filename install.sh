#!/usr/bin/env bash
# Puts Larder on this machine and starts it. Safe to run again: the configuration, the keys and the
# data stay as they are, the binary is replaced and the server restarted.
#
# Nothing is changed before everything that is needed has been looked at; what is missing is named
# together with the one line that mends it. Works with bash 3.2 and needs no other tool than the
# ones every system has.
set -euo pipefail

readonly CARGO_MIN="1.95"
readonly BUILD_FREE_MIB=3072      # a release build with an empty target directory
readonly DATA_FREE_MIB=256        # the metadata database and its ballast
readonly DISK_FREE_MIB=1088       # a backend keeps 1 GiB free by default: less takes no objects
readonly READY_WAIT_S=60
readonly STOP_WAIT_S=45           # above the server's own shutdown_timeout
readonly PORT_FIRST=9000
readonly PORT_LAST=9198
readonly SYSTEM_USER="larder"
readonly LAUNCHD_LABEL="io.larder"

MODE=""                           # system or user
BINARY_FROM=""                    # --binary FILE; empty: build
DEMO=no
START=yes
ACTION=install
DISKS=()                          # directories as given, made absolute
WARNINGS=()

usage() {
    cat <<'HELP'
Usage: ./install.sh [--disk DIR]... [options]
       ./install.sh --uninstall | --purge [--system | --user]

Builds Larder, writes a configuration with fresh keys, starts the server and shows how to use it.

  --disk DIR      keep objects under DIR/larder; may be given several times. Two or more disks keep
                  two replicas of everything. Without it one directory beside the metadata is used.
  --demo          allow several --disk on one device, to try replicas out
  --system        install for the whole machine (root): /usr/local/bin/larder, /etc/larder,
                  /var/lib/larder, a user "larder", listening on all addresses
  --user          install for this user alone (the default): ~/.local/bin, ~/.config/larder,
                  ~/.local/share/larder, listening on 127.0.0.1
  --binary FILE   install this binary instead of building one
  --no-start      install only
  --uninstall     stop the server and remove the binary and the service; configuration, metadata
                  and objects stay
  --purge         remove those as well, after asking twice
  --help          this text
HELP
}

say() { printf '%s\n' "$*"; }
step() { printf '==> %s\n' "$*"; }
warn() { WARNINGS+=("$*"); printf 'warning: %s\n' "$*" >&2; }

# die MESSAGE [THE LINE THAT MENDS IT]
die() {
    printf 'install.sh: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf '  to mend it: %s\n' "$2" >&2
    exit 1
}

usage_error() {
    printf 'install.sh: %s\nTry ./install.sh --help\n' "$1" >&2
    exit 2
}

have() { command -v "$1" >/dev/null 2>&1; }

# ---- What was asked for.

parse_arguments() {
    while [ $# -gt 0 ]; do
        case "$1" in
            --disk) [ $# -ge 2 ] || usage_error "--disk wants a directory"; DISKS+=("$2"); shift ;;
            --disk=*) DISKS+=("${1#*=}") ;;
            --binary) [ $# -ge 2 ] || usage_error "--binary wants a file"; BINARY_FROM=$2; shift ;;
            --binary=*) BINARY_FROM=${1#*=} ;;
            --system | --user)
                [ -z "$MODE" ] || [ "$MODE" = "${1#--}" ] \
                    || usage_error "--system and --user exclude each other"
                MODE=${1#--} ;;
            --demo) DEMO=yes ;;
            --no-start) START=no ;;
            --uninstall | --purge)
                [ "$ACTION" = install ] || [ "$ACTION" = "${1#--}" ] \
                    || usage_error "--uninstall and --purge exclude each other"
                ACTION=${1#--} ;;
            -h | --help) usage; exit 0 ;;
            *) usage_error "unknown argument: $1" ;;
        esac
        shift
    done
    [ -n "$MODE" ] || MODE=user
}

# ---- Where things are. All that differs on macOS is here and in `service_kind`.

set_paths() {
    SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
    SYSTEM=$(uname -s)
    if [ "$MODE" = system ]; then
        [ "$SYSTEM" != Darwin ] || die "--system is not there on macOS" "./install.sh --user"
        [ "$(id -u)" = 0 ] || die "--system needs root" "sudo $0 --system ..."
        BIN=/usr/local/bin/larder
        CONFIG=/etc/larder/larder.toml
        DATA=/var/lib/larder
        PID_FILE=/run/larder.pid
        LOG_FILE=/var/log/larder.log
        UNIT_FILE=/etc/systemd/system/larder.service
        LISTEN=0.0.0.0
    else
        [ -n "${HOME:-}" ] && [ -d "$HOME" ] || die "HOME is not a directory"
        BIN=$HOME/.local/bin/larder
        CONFIG=${XDG_CONFIG_HOME:-$HOME/.config}/larder/larder.toml
        DATA=${XDG_DATA_HOME:-$HOME/.local/share}/larder
        PID_FILE=${XDG_STATE_HOME:-$HOME/.local/state}/larder/larder.pid
        LOG_FILE=${XDG_STATE_HOME:-$HOME/.local/state}/larder/larder.log
        UNIT_FILE=${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user/larder.service
        LISTEN=127.0.0.1
        if [ "$SYSTEM" = Darwin ]; then
            LOG_FILE=$HOME/Library/Logs/larder.log
            UNIT_FILE=$HOME/Library/LaunchAgents/$LAUNCHD_LABEL.plist
        fi
    fi
    DEFAULT_DISK=$(dirname "$DATA")/larder-objects
}

# systemd, launchd, or detached where there is neither.
service_kind() {
    if [ "$SYSTEM" = Darwin ]; then
        echo launchd
    elif [ "$MODE" = system ] && [ -d /run/systemd/system ] && have systemctl; then
        echo systemd
    elif [ "$MODE" = user ] && [ -d /run/systemd/system ] && have systemctl \
        && systemctl --user show-environment >/dev/null 2>&1; then
        echo systemd
    else
        echo detached
    fi
}

sctl() {
    if [ "$MODE" = system ]; then systemctl "$@"; else systemctl --user "$@"; fi
}

# ---- Checks, before anything is changed.

# The first existing directory at or above a path.
existing_above() {
    local path=$1
    while [ ! -d "$path" ]; do path=$(dirname "$path"); done
    printf '%s\n' "$path"
}

free_mib() {
    df -Pk "$(existing_above "$1")" | awk 'END { print int($(NF - 2) / 1024) }'
}

device_of() {
    stat -c %d "$1" 2>/dev/null || stat -f %d "$1"
}

# version_at_least HAVE WANT, both as NUMBER.NUMBER
version_at_least() {
    local have_major=${1%%.*} want_major=${2%%.*} have_minor want_minor
    have_minor=${1#*.}; have_minor=${have_minor%%[!0-9]*}
    want_minor=${2#*.}; want_minor=${want_minor%%[!0-9]*}
    [ "$have_major" -gt "$want_major" ] \
        || { [ "$have_major" -eq "$want_major" ] && [ "$have_minor" -ge "$want_minor" ]; }
}

compiler_line() {
    local root=""
    [ "$(id -u)" = 0 ] || root="sudo "
    if [ "$SYSTEM" = Darwin ]; then echo "xcode-select --install"
    elif have apt-get; then echo "${root}apt-get update && ${root}apt-get install -y gcc libc6-dev"
    elif have dnf; then echo "${root}dnf install -y gcc glibc-devel"
    elif have apk; then echo "${root}apk add gcc musl-dev"
    elif have pacman; then echo "${root}pacman -S --needed gcc"
    elif have zypper; then echo "${root}zypper install -y gcc glibc-devel"
    else echo "install a C compiler, and see that \`cc\` is found"
    fi
}

check_compiler() {
    local compiler=${CC:-cc} scratch
    have "${compiler%% *}" || die "there is no C compiler ($compiler)" "$(compiler_line)"
    scratch=$(mktemp -d)
    if ! printf 'int main(void) { return 0; }\n' >"$scratch/try.c" \
        || ! $compiler -o "$scratch/try" "$scratch/try.c" 2>"$scratch/errors"; then
        sed 's/^/  /' "$scratch/errors" >&2
        rm -rf "$scratch"
        die "the C compiler ($compiler) cannot build a program" "$(compiler_line)"
    fi
    rm -rf "$scratch"
}

check_cargo() {
    local version rustup="curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
    if ! have cargo && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
        PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
    fi
    if ! have cargo && [ "$MODE" = system ] && [ -n "${SUDO_USER:-}" ]; then
        die "root has no cargo" \
            "cargo build --release --locked && sudo $0 --system --binary target/release/larder ..."
    fi
    have cargo || die "there is no cargo (Rust $CARGO_MIN or newer)" "$rustup"
    version=$(cd "$SOURCE" && cargo --version 2>/dev/null | awk '{ print $2 }') || true
    case "$version" in
        [0-9]*.[0-9]*) ;;
        *)
            have rustup && rustup="rustup default stable"
            die "cargo does not tell its version" "$rustup" ;;
    esac
    if ! version_at_least "$version" "$CARGO_MIN"; then
        have rustup && rustup="rustup update stable"
        die "cargo is $version, but $CARGO_MIN or newer is needed" "$rustup"
    fi
}

check_build() {
    local free target=${CARGO_TARGET_DIR:-$SOURCE/target}
    if [ -n "$BINARY_FROM" ]; then
        [ -f "$BINARY_FROM" ] || die "there is no file $BINARY_FROM"
        [ -x "$BINARY_FROM" ] || die "$BINARY_FROM cannot be executed" "chmod +x $BINARY_FROM"
        "$BINARY_FROM" --version >/dev/null 2>&1 \
            || die "$BINARY_FROM does not run on this machine (tried: $BINARY_FROM --version)"
        return
    fi
    [ -f "$SOURCE/Cargo.toml" ] \
        || die "there is no source beside install.sh" "$0 --binary FILE"
    check_cargo
    check_compiler
    free=$(free_mib "$target")
    [ -d "$target/release" ] || [ "$free" -ge "$BUILD_FREE_MIB" ] \
        || die "only $free MiB are free for the build at $target, $BUILD_FREE_MIB are needed" \
            "CARGO_TARGET_DIR=/a/roomier/directory $0 ..."
}

# A path that fits into one line of a TOML file and of a systemd unit.
check_path_characters() {
    case "$1" in
        *[[:cntrl:]]*) die "a directory name with control characters cannot be used: $1" ;;
    esac
}

check_disks() {
    local i disk seen=$'\n' devices="" distinct
    for i in ${DISKS[@]+"${!DISKS[@]}"}; do
        disk=${DISKS[$i]}
        check_path_characters "$disk"
        [ -n "$disk" ] || usage_error "--disk wants a directory"
        [ -d "$disk" ] || die "there is no directory $disk (is the disk mounted?)" \
            "mkdir -p '$disk'   # only if it needs no mount"
        disk=$(cd "$disk" && pwd -P)
        case "$seen" in *$'\n'"$disk"$'\n'*) die "$disk is given twice" ;; esac
        seen=$seen$disk$'\n'
        DISKS[i]=$disk
        devices=$devices$(device_of "$disk")$'\n'
        case "$DATA/" in "$disk/larder/"*) die "$disk/larder would hold the metadata" ;; esac
        [ "$(free_mib "$disk")" -ge "$DISK_FREE_MIB" ] \
            || warn "$disk has under $DISK_FREE_MIB MiB free: it will take no objects until there is more (see keep_free)"
    done
    [ "${#DISKS[@]}" -ge 2 ] || return 0
    distinct=$(printf '%s' "$devices" | sort -u | wc -l | tr -d ' ')
    SAME_DEVICE=no
    if [ "$distinct" = 1 ]; then
        [ "$DEMO" = yes ] || die "all directories are on one device: two replicas there would die together" \
            "give one --disk, or directories on different disks, or --demo to try it out"
        SAME_DEVICE=yes
    elif [ "$distinct" -lt "${#DISKS[@]}" ]; then
        say "some of the directories share a device: they count as one place for replicas"
    fi
}

check_all() {
    local free
    check_path_characters "$DATA"
    for tool in awk sed df stat mktemp head tr; do
        have "$tool" || die "there is no \`$tool\` on this system"
    done
    [ -f "$CONFIG" ] || check_disks
    free=$(free_mib "$DATA")
    [ "$free" -ge "$DATA_FREE_MIB" ] \
        || die "only $free MiB are free for $DATA, $DATA_FREE_MIB are needed"
    if [ "$MODE" = system ] && ! id "$SYSTEM_USER" >/dev/null 2>&1; then
        have useradd || have adduser || die "there is neither useradd nor adduser to make the user $SYSTEM_USER"
    fi
    check_build
}

# ---- The binary.

build_binary() {
    [ -z "$BINARY_FROM" ] || return 0
    step "building (a few minutes the first time)"
    (cd "$SOURCE" && cargo build --release --locked --bin larder) \
        || die "the build failed; what cargo said is above"
    BINARY_FROM=${CARGO_TARGET_DIR:-$SOURCE/target}/release/larder
}

# Beside the old one and then renamed: a running server keeps the file that it has open.
install_binary() {
    step "installing $BIN"
    mkdir -p "$(dirname "$BIN")"
    cp "$BINARY_FROM" "$BIN.new"
    chmod 0755 "$BIN.new"
    mv -f "$BIN.new" "$BIN"
    case ":$PATH:" in
        *":$(dirname "$BIN"):"*) ;;
        *) warn "$(dirname "$BIN") is not in your PATH" ;;
    esac
}

# ---- The user, the directories, the configuration.

make_user() {
    [ "$MODE" = system ] || return 0
    id "$SYSTEM_USER" >/dev/null 2>&1 && return 0
    step "making the user $SYSTEM_USER"
    if have useradd; then
        useradd --system --user-group --home-dir "$DATA" --no-create-home \
            --shell "$(command -v nologin || echo /bin/false)" "$SYSTEM_USER"
    else
        addgroup -S "$SYSTEM_USER" 2>/dev/null || true
        adduser -S -D -H -h "$DATA" -s /sbin/nologin -G "$SYSTEM_USER" "$SYSTEM_USER"
    fi
}

# own PATH MODE: gives a path to the account that the server runs under.
own() {
    chmod "$2" "$1"
    [ "$MODE" != system ] || chown "$SYSTEM_USER:$SYSTEM_USER" "$1"
}

# Runs a command as the account that the server runs under; with BECOME=exec this shell becomes it.
as_server() {
    if [ "$MODE" != system ]; then
        ${BECOME:-} "$@"
    elif setpriv --reuid "$SYSTEM_USER" --regid "$SYSTEM_USER" --init-groups true 2>/dev/null; then
        ${BECOME:-} setpriv --reuid "$SYSTEM_USER" --regid "$SYSTEM_USER" --init-groups "$@"
    else
        ${BECOME:-} su -s /bin/sh "$SYSTEM_USER" -c 'exec "$@"' -- larder "$@"
    fi
}

make_data_directory() {
    mkdir -p "$DATA"
    own "$DATA" 0700
}

random_text() { # CHARACTERS LENGTH
    local text
    text=$(head -c 4096 /dev/urandom | LC_ALL=C tr -dc "$1")
    [ "${#text}" -ge "$2" ] || die "/dev/urandom gives too little"
    printf '%s' "${text:0:$2}"
}

# Quotes a value for TOML, where Larder also reads ${NAME} and $$.
toml_string() {
    local text=$1
    text=${text//\\/\\\\}
    text=${text//\"/\\\"}
    text=${text//\$/\$\$}
    printf '"%s"' "$text"
}

port_is_free() {
    if [ "$SYSTEM" != Darwin ] && have python3; then
        python3 - "$LISTEN" "$1" <<'PYTHON' 2>/dev/null
import socket, sys
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((sys.argv[1], int(sys.argv[2])))
PYTHON
    elif have ss; then
        [ -z "$(ss -ltn "sport = :$1" | tail -n +2)" ]
    else
        if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then return 1; else return 0; fi
    fi
}

choose_ports() {
    local port=$PORT_FIRST
    while [ "$port" -lt "$PORT_LAST" ]; do
        if port_is_free "$port" && port_is_free "$((port + 1))"; then
            S3_PORT=$port
            ADMIN_PORT=$((port + 1))
            [ "$port" = "$PORT_FIRST" ] \
                || say "ports $PORT_FIRST and $((PORT_FIRST + 1)) are not both free: using $S3_PORT and $ADMIN_PORT"
            return
        fi
        port=$((port + 2))
    done
    die "no two free ports between $PORT_FIRST and $PORT_LAST"
}

write_backend() { # NAME ROOT
    cat <<TOML

[[backend]]
name = "$1"
service = "fs"
options = { root = $(toml_string "$2") }
TOML
}

write_configuration_text() {
    local i replicas=1
    [ "${#DISKS[@]}" -lt 2 ] || replicas=2
    cat <<TOML
# Larder's configuration. The running server notices a change by itself;
# \`larder --config FILE check\` says what it would make of it.

data_dir = $(toml_string "$DATA")

[server]
listen = "$LISTEN:$S3_PORT"         # S3
admin_listen = "127.0.0.1:$ADMIN_PORT"   # health

[defaults]
replicas = $replicas
TOML
    if [ "${SAME_DEVICE:-no}" = yes ]; then
        cat <<'TOML'
# Both replicas are on one device: they protect from a damaged file, not from a lost disk.
same_device = true
TOML
    fi
    if [ "${#DISKS[@]}" = 0 ]; then
        write_backend disk1 "$DEFAULT_DISK"
    else
        for i in "${!DISKS[@]}"; do
            write_backend "disk$((i + 1))" "${DISKS[$i]%/}/larder"
        done
    fi
    cat <<TOML

[[key]]
id = "$KEY_ID"
secret = "$KEY_SECRET"
create_buckets = true
grants = [{ bucket = "*", allow = ["read", "list", "create", "write", "delete", "admin"] }]
TOML
}

write_configuration() {
    local new=$CONFIG.new
    if [ -f "$CONFIG" ]; then
        step "keeping $CONFIG with its keys"
        note_disks_not_in_configuration
        return
    fi
    step "writing $CONFIG"
    choose_ports
    KEY_ID=LK$(random_text 'A-Z0-9' 18)
    KEY_SECRET=$(random_text 'A-Za-z0-9' 40)
    mkdir -p "$(dirname "$CONFIG")"
    if [ "$MODE" = system ]; then
        chown "root:$SYSTEM_USER" "$(dirname "$CONFIG")"
        chmod 0750 "$(dirname "$CONFIG")"
    fi
    (umask 077 && write_configuration_text >"$new")
    if [ "$MODE" = system ]; then
        chown "root:$SYSTEM_USER" "$new"
        chmod 0640 "$new"
    fi
    make_disk_directories "$new"
    mv -f "$new" "$CONFIG"
}

note_disks_not_in_configuration() {
    local disk
    for disk in ${DISKS[@]+"${DISKS[@]}"}; do
        disk=$(cd "$disk" 2>/dev/null && pwd -P) || continue
        fs_roots "$CONFIG" | grep -Fxq -- "${disk%/}/larder" \
            || warn "$disk is not in the kept configuration: add a [[backend]] to $CONFIG for it"
    done
}

make_disk_directories() { # CONFIGURATION
    local root
    while IFS= read -r root; do
        mkdir -p "$root"
        own "$root" 0700
        as_server test -w "$root" || die "the user $SYSTEM_USER cannot reach $root" \
            "chmod o+x on the directories above it"
    done < <(fs_roots "$1")
}

# The roots of all local backends in a configuration file, one a line.
fs_roots() { # FILE
    awk '
        function flush() { if (service == "fs" && root != "") print root; service = root = "" }
        /^[ \t]*#/ { next }
        /^[ \t]*\[/ {
            name = $0; gsub(/[][ \t]|#.*/, "", name)
            if ($0 ~ /^[ \t]*\[\[/) flush()
            ours = (name ~ /^backend(\.|$)/)
        }
        ours && match($0, /^[ \t]*service[ \t]*=[ \t]*"[^"]*"/) {
            service = substr($0, RSTART, RLENGTH); sub(/^[^"]*"/, "", service); sub(/"$/, "", service)
        }
        ours && match($0, /(^|[ \t{,])root[ \t]*=[ \t]*"/) {
            rest = substr($0, RSTART + RLENGTH); root = ""
            while (rest != "" && substr(rest, 1, 1) != "\"") {
                if (substr(rest, 1, 1) == "\\" || substr(rest, 1, 2) == "$$") rest = substr(rest, 2)
                root = root substr(rest, 1, 1); rest = substr(rest, 2)
            }
        }
        END { flush() }
    ' "$1"
}

# The value of a quoted key in a table of the configuration: configured TABLE KEY
configured() {
    awk -v table="$1" -v key="$2" '
        /^[ \t]*\[/ { now = $0; gsub(/[][ \t]|#.*/, "", now) }
        now == table && $0 ~ "^[ \t]*" key "[ \t]*=[ \t]*\"" {
            sub(/^[^"]*"/, ""); sub(/".*$/, ""); print; exit
        }
    ' "$CONFIG"
}

check_configuration() {
    local said
    if ! said=$(as_server "$BIN" --config "$CONFIG" check 2>&1); then
        printf '%s\n' "$said" >&2
        die "the configuration $CONFIG is not accepted; the reasons are above" \
            "edit $CONFIG, then run this again"
    fi
}

# ---- Service managers.

write_systemd_unit() {
    local source=$SOURCE/packaging/larder.service root drop_in=$UNIT_FILE.d/disks.conf
    [ "$MODE" = system ] || source=$SOURCE/packaging/larder-user.service
    [ -f "$source" ] || die "there is no $source"
    mkdir -p "$(dirname "$UNIT_FILE")"
    if [ "$MODE" = system ]; then
        cp "$source" "$UNIT_FILE"
        mkdir -p "$UNIT_FILE.d"
        {
            printf '[Service]\n'
            while IFS= read -r root; do
                root=${root//\\/\\\\}
                root=${root//%/%%}
                printf 'ReadWritePaths="-%s"\n' "${root//\"/\\\"}"
                case "$root" in /tmp/* | /var/tmp/*) printf 'PrivateTmp=no\n' ;; esac
            done < <(fs_roots "$CONFIG")
        } >"$drop_in"
    else
        sed -e "s|^ExecStart=.*|ExecStart=\"$(unit_escape "$BIN")\" --config \"$(unit_escape "$CONFIG")\" serve|" \
            "$source" >"$UNIT_FILE"
    fi
    sctl daemon-reload
}

# Escapes a path for a quoted word of a unit file, and then for the right side of `sed s|||`.
unit_escape() {
    printf '%s' "$1" | sed -e 's/[\\"]/\\&/g' -e 's/%/%%/g' -e 's/\$/$$/g' -e 's/[\\&|]/\\&/g'
}

xml_escape() {
    printf '%s' "$1" | sed -e 's/&/\&amp;/g' -e 's/</\&lt;/g' -e 's/>/\&gt;/g' -e 's/[\\&|]/\\&/g'
}

write_launchd_agent() {
    mkdir -p "$(dirname "$UNIT_FILE")" "$(dirname "$LOG_FILE")"
    sed -e "s|@BIN@|$(xml_escape "$BIN")|" -e "s|@CONFIG@|$(xml_escape "$CONFIG")|" \
        -e "s|@LOG@|$(xml_escape "$LOG_FILE")|" "$SOURCE/packaging/$LAUNCHD_LABEL.plist" >"$UNIT_FILE"
}

# The process of the pid file, if it lives and really is this server.
running_pid() {
    local pid arguments
    [ -f "$PID_FILE" ] || return 1
    read -r pid <"$PID_FILE" || return 1
    case "$pid" in '' | *[!0-9]*) return 1 ;; esac
    kill -0 "$pid" 2>/dev/null || return 1
    if [ -r "/proc/$pid/cmdline" ]; then
        arguments=$(tr '\0' ' ' <"/proc/$pid/cmdline")
    else
        arguments=$(ps -ww -p "$pid" -o args= 2>/dev/null) || return 1
    fi
    case "$arguments" in
        *"$BIN --config $CONFIG serve"*) printf '%s\n' "$pid" ;;
        *) return 1 ;;
    esac
}

stop_detached() {
    local pid waited=0
    if ! pid=$(running_pid); then
        rm -f "$PID_FILE"
        return 0
    fi
    step "stopping the server (process $pid)"
    kill -TERM "$pid" 2>/dev/null || true
    while kill -0 "$pid" 2>/dev/null; do
        [ "$waited" -lt "$STOP_WAIT_S" ] || die "process $pid does not end" "kill -KILL $pid"
        sleep 1
        waited=$((waited + 1))
    done
    rm -f "$PID_FILE"
}

# In a session of its own, so that it outlives this terminal. The shell writes its own number and
# then becomes the server.
start_detached() {
    local session=""
    mkdir -p "$(dirname "$PID_FILE")" "$(dirname "$LOG_FILE")"
    have setsid && session=setsid
    (umask 077 && : >>"$LOG_FILE" && : >"$PID_FILE")
    # shellcheck disable=SC2016 # expanded by the inner shell
    as_server_detached $session nohup sh -c 'echo $$ >&3; exec 3>&-; exec "$@"' sh \
        "$BIN" --config "$CONFIG" serve
}

as_server_detached() {
    BECOME=exec as_server "$@" 3>"$PID_FILE" >>"$LOG_FILE" 2>&1 </dev/null &
    disown
}

stop_service() {
    stop_detached
    case "$KIND" in
        systemd)
            if [ -f "$UNIT_FILE" ]; then sctl stop larder.service || true; fi ;;
        launchd)
            if [ -f "$UNIT_FILE" ]; then
                launchctl bootout "gui/$(id -u)/$LAUNCHD_LABEL" 2>/dev/null || true
            fi ;;
    esac
}

start_service() {
    case "$KIND" in
        systemd)
            step "starting under systemd"
            sctl enable larder.service >/dev/null 2>&1 || warn "systemd does not start Larder at boot"
            sctl restart larder.service || die "systemd could not start it" "$(log_line)" ;;
        launchd)
            step "starting under launchd"
            launchctl bootstrap "gui/$(id -u)" "$UNIT_FILE" || die "launchd could not start it" "$(log_line)" ;;
        detached)
            step "starting in the background: there is no systemd or launchd to keep it running"
            start_detached ;;
    esac
}

write_service() {
    case "$KIND" in
        systemd) write_systemd_unit ;;
        launchd) write_launchd_agent ;;
    esac
}

log_line() {
    case "$KIND-$MODE" in
        systemd-system) echo "journalctl -u larder -n 50" ;;
        systemd-user) echo "journalctl --user -u larder -n 50" ;;
        *) echo "tail -n 50 '$LOG_FILE'" ;;
    esac
}

show_log() {
    case "$KIND-$MODE" in
        systemd-system) journalctl -u larder -n 20 --no-pager 2>/dev/null || true ;;
        systemd-user) journalctl --user -u larder -n 20 --no-pager 2>/dev/null || true ;;
        *) [ ! -f "$LOG_FILE" ] || tail -n 20 "$LOG_FILE" ;;
    esac | sed 's/^/  | /' >&2
}

is_alive() {
    case "$KIND" in
        systemd) [ "$(sctl is-active larder.service 2>/dev/null)" != failed ] ;;
        launchd) launchctl print "gui/$(id -u)/$LAUNCHD_LABEL" >/dev/null 2>&1 ;;
        detached) running_pid >/dev/null || [ ! -s "$PID_FILE" ] ;;
    esac
}

# Whether the admin listener answers that the server is ready.
is_ready() { # HOST PORT
    local status=""
    {
        exec 3<>"/dev/tcp/$1/$2" || return 1
        printf 'GET /health/ready HTTP/1.0\r\nHost: %s:%s\r\n\r\n' "$1" "$2" >&3
        IFS= read -r -t 3 status <&3 || true
        exec 3>&-
    } 2>/dev/null
    case "$status" in "HTTP/1."[01]" 200"*) return 0 ;; *) return 1 ;; esac
}

wait_until_ready() {
    local address host port waited=0 pause_until
    address=$(configured server admin_listen)
    address=${address:-127.0.0.1:9001}
    host=$(local_host "${address%:*}")
    port=${address##*:}
    pause_until=$((SECONDS + READY_WAIT_S))
    while [ "$SECONDS" -lt "$pause_until" ]; do
        if ! is_alive; then
            show_log
            die "the server ended at once; its last lines are above" "$(log_line)"
        fi
        if [ "$waited" -gt 0 ] && (is_ready "$host" "$port"); then
            # Another server may hold the port: ours must still be there.
            is_alive && return
        fi
        waited=$((waited + 1))
        sleep 0.3
    done
    show_log
    die "the server is not ready after $READY_WAIT_S s" "$(log_line)"
}

# The address at which this machine reaches a listener.
local_host() {
    case "$1" in
        0.0.0.0 | "" | "[::]") echo 127.0.0.1 ;;
        *) echo "$1" ;;
    esac
}

# ---- What to do next.

print_use() {
    local address endpoint id secret region
    address=$(configured server listen)
    address=${address:-127.0.0.1:9000}
    endpoint=http://$(local_host "${address%:*}"):${address##*:}
    region=$(configured server region)
    region=${region:-us-east-1}
    id=$(configured key id)
    secret=$(configured key secret)
    if [ -z "$id" ] || [ -z "$secret" ]; then
        id=KEY_ID
        secret=SECRET
        say "The configuration declares no key with its secret: make one with \`larder key create\`."
    fi
    cat <<USE

Larder serves S3 at $endpoint

  configuration  $CONFIG   (the keys are in it)
  metadata       $DATA
  objects        $(fs_roots "$CONFIG" | sed '2,$s/^/                 /')
  log            $(log_line)
  stop           $(stop_line)

Try it with curl alone (7.88 or newer):

  s3() { curl -sS --aws-sigv4 aws:amz:$region:s3 -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' -u '$id:$secret' "\$@"; }; s3 -X PUT $endpoint/first; s3 -X PUT --data-binary 'Hello from Larder.' $endpoint/first/hello.txt; s3 $endpoint/first/hello.txt

Other clients:

  export AWS_ACCESS_KEY_ID='$id' AWS_SECRET_ACCESS_KEY='$secret' AWS_DEFAULT_REGION=$region
  aws --endpoint-url $endpoint s3 sync DIRECTORY s3://first/
  rclone copy DIRECTORY ":s3,provider=Other,env_auth=true,endpoint='$endpoint':first"
  restic -r s3:$endpoint/backups init
USE
    if [ "$LISTEN" = 0.0.0.0 ] && [ "${address%:*}" = 0.0.0.0 ]; then
        say ""
        say "It listens on all addresses of this machine, without TLS: other machines reach it at port ${address##*:}."
    fi
    if grep -q '^same_device = true' "$CONFIG"; then
        say ""
        say "Both replicas are on one device (--demo): they protect from a damaged or deleted file, not from a lost disk."
    elif [ "$(fs_roots "$CONFIG" | wc -l | tr -d ' ')" = 1 ] && [ "$(grep -c '^[[:space:]]*\[\[[[:space:]]*backend' "$CONFIG")" = 1 ]; then
        say ""
        say "There is one disk and so one replica of each object: a lost disk is a lost object. More [[backend]] tables in the configuration and replicas = 2 mend that."
    fi
    if [ "$KIND" = detached ]; then
        say ""
        say "Nothing restarts it after a crash or at boot here. To start it again:"
        say "  ./install.sh --$MODE --binary '$BIN'"
    elif [ "$KIND-$MODE" = systemd-user ]; then
        say ""
        say "It ends when you log out, unless: loginctl enable-linger"
    fi
}

stop_line() {
    case "$KIND-$MODE" in
        systemd-system) echo "systemctl stop larder" ;;
        systemd-user) echo "systemctl --user stop larder" ;;
        launchd-*) echo "launchctl bootout gui/$(id -u)/$LAUNCHD_LABEL" ;;
        *) echo "'$BIN' --config '$CONFIG' stop" ;;
    esac
}

# ---- Leaving.

uninstall() {
    step "removing the service and $BIN"
    stop_service
    if [ "$KIND" = systemd ] && [ -f "$UNIT_FILE" ]; then
        sctl disable larder.service >/dev/null 2>&1 || true
        rm -rf "$UNIT_FILE" "$UNIT_FILE.d"
        sctl daemon-reload || true
    fi
    rm -f "$UNIT_FILE" "$BIN"
    [ "$ACTION" = uninstall ] || return 0
    say "Kept: $CONFIG, $DATA and the objects. ./install.sh brings everything back; --purge removes it."
}

ask() { # QUESTION EXPECTED
    local answer=""
    printf '%s\n> ' "$1"
    IFS= read -r answer || true
    [ "$answer" = "$2" ]
}

# Directories of objects are removed only where Larder's own marker directory lies in them.
purge() {
    local root roots=() extra=()
    if [ -f "$CONFIG" ]; then
        while IFS= read -r root; do
            if [ -d "$root/.larder" ]; then
                roots+=("$root")
            elif [ -d "$root" ]; then
                extra+=("$root")
            fi
        done < <(fs_roots "$CONFIG")
    fi
    say "This removes for ever:"
    for root in "$CONFIG" "$DATA" ${roots[@]+"${roots[@]}"}; do say "  $root"; done
    for root in ${extra[@]+"${extra[@]}"}; do say "  (not $root: there is no marker of Larder's in it)"; done
    ask 'Every object in these directories will be lost. Type "purge" to go on.' purge \
        || die "nothing was removed"
    ask "Once more: type the metadata directory ($DATA) to remove everything." "$DATA" \
        || die "nothing was removed"
    uninstall
    for root in ${roots[@]+"${roots[@]}"}; do rm -rf -- "$root"; done
    rm -rf -- "$DATA"
    rm -f -- "$CONFIG" "$LOG_FILE" "$PID_FILE"
    rmdir "$(dirname "$CONFIG")" 2>/dev/null || true
    if [ "$MODE" = system ] && id "$SYSTEM_USER" >/dev/null 2>&1; then
        userdel "$SYSTEM_USER" 2>/dev/null || deluser "$SYSTEM_USER" 2>/dev/null \
            || warn "the user $SYSTEM_USER could not be removed"
    fi
    say "Removed."
}

main() {
    parse_arguments "$@"
    set_paths
    KIND=$(service_kind)
    case "$ACTION" in
        uninstall) uninstall; return ;;
        purge) purge; return ;;
    esac
    check_all
    build_binary
    make_user
    make_data_directory
    install_binary
    write_configuration
    check_configuration
    if [ "$START" = no ]; then
        write_service
        say "Installed, not started. To start it: ./install.sh --$MODE --binary '$BIN'"
        return
    fi
    stop_service
    write_service
    start_service
    wait_until_ready
    print_use
}

main "$@"
