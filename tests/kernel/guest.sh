#!/bin/busybox sh
# The first process of the emulated machine that `run` beside this starts. It says PASS or FAIL of each step and
# switches the machine off.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
ip link set lo up
ulimit -n 4096
cd /tmp
echo "KERNEL $(uname -r), $(uname -v)"

# step NAME COMMAND...: what it says goes through a file, since a terminal would be shown its progress.
step() {
    name=$1
    shift
    if "$@" >output 2>&1; then result=PASS; else result=FAIL; fi
    cat output
    echo "$result $name"
}

# within SECONDS COMMAND...: tries it until it succeeds.
within() {
    tries=$(($1 * 5))
    shift
    until "$@"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 0.2
    done
}

load() {
    scenario=$1
    shift
    timeout 60 fanfare-loadtest "$scenario" --pid "$broker" --warmup 1 "$@"
}

is_heard() {
    timeout 5 fanfare pub heard 1 && grep -q heard got
}

# Whoever is connected is told to come back, and the broker exits with 0.
has_drained() {
    timeout 60 fanfare sub '#' >got 2>told &
    within 10 is_heard || return 1
    kill -TERM "$broker"
    within 15 test -e ended && [ "$(cat ended)" = 0 ] && within 5 grep 'closed with 1012' told
}

step probe timeout 30 fanfare probe

# Two reactors, so that they wake each other across rings.
(fanfare serve --reactors 2 --log warn --set timeouts.drain_ms=2000 >banner; echo $? >ending; mv ending ended) &
step ready within 20 grep 'is ready' banner
broker=$(pidof fanfare)

fanout="--subscribers 50 --publishers 2 --rate 100 --verify all --duration 3"
step "fan-out json" load fanout $fanout
step "fan-out bin" load fanout $fanout --protocol fanfare-bin
step soak load soak --subscribers 20 --rooms 5 --publishers 5 --visitors 2 --reconnecting 2 --slow 1 --rate 50 --duration 10
step drain has_drained

poweroff -f
