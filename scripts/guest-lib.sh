# shellcheck shell=bash
# Shared by the guest scripts; sourced, not run.

# 125 is "the guest itself failed", as with timeout(1) and env(1); 124 is a timeout.
# shellcheck disable=SC2034
readonly EXIT_GUEST=125 EXIT_TIMEOUT=124

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit "$EXIT_GUEST"; }

cache_dir() { printf '%s\n' "${VOLUKS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/voluks}"; }

# The guest's kernel splits its command line at blanks, and paths travel on it.
no_blanks() {
	case $1 in *[[:space:],\"]*) die "path with a blank, comma or quote cannot be handed to the guest: $1" ;; esac
}

need_tools() {
	local tool
	for tool; do
		command -v "$tool" >/dev/null || die "$tool is missing; run scripts/deps"
	done
}

uml_version() {
	local dirs=(/usr/lib/uml/modules/*/)
	[[ -d ${dirs[0]} ]] || die "no kernel modules below /usr/lib/uml/modules; run scripts/deps"
	basename "${dirs[-1]}"
}

# Prints a directory that modprobe -d takes: the modules of the UML kernel with a fresh depmod, made once per kernel package. The machine's own
# /lib/modules stays as it is.
modules_dir() {
	local version source stamp dir tmp
	version=$(uml_version)
	source=/usr/lib/uml/modules/$version
	stamp=$(stat -c %Y "$source/kernel")
	dir=$(cache_dir)/modules-$version-$stamp
	if [[ ! -d $dir ]]; then
		mkdir -p "$(cache_dir)"
		tmp=$(mktemp -d "$(cache_dir)/.modules.XXXXXX")
		mkdir -p "$tmp/lib/modules"
		cp -a "$source" "$tmp/lib/modules/$version"
		/sbin/depmod -b "$tmp" "$version"
		chmod 755 "$tmp"
		# A second run may have been faster; its copy is as good.
		mv -T "$tmp" "$dir" 2>/dev/null || rm -rf "$tmp"
	fi
	printf '%s\n' "$dir"
}

# claim_cpu: sets cpu to the processor for the guest that is started next, the one with the fewest guests. The kernel of a guest and what runs in it hand over
# to each other at every system call, and never run both; across two processors that takes twice the time. The claim is a lock on the descriptor claim, which
# the guest inherits, and which the caller closes then: a helper that outlives the guest must not hold it.
claim_cpu() {
	local allowed range all=() level
	allowed=$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' "/proc/$$/status")
	for range in ${allowed//,/ }; do
		mapfile -t -O "${#all[@]}" all < <(seq "${range%-*}" "${range#*-}")
	done
	mkdir -p "$(cache_dir)/run"
	for level in {1..16}; do
		for cpu in "${all[@]}"; do
			exec {claim}>>"$(cache_dir)/run/cpu.$cpu.$level"
			if flock -n "$claim"; then return; fi
			exec {claim}>&-
		done
	done
	cpu=$allowed
	exec {claim}</dev/null
}

# A guest is a process group of its own (setsid): its helpers outlive its main process and hold the disks.
kill_guest() { kill -KILL -- "-$1" 2>/dev/null || true; }

# blocked_tasks UMID: what the kernel of a guest that hangs says of the tasks that wait for it, asked as uml_mconsole(1) does. It can answer as long as it
# takes interrupts; whether it does or not, the caller goes on to end it.
blocked_tasks() {
	# shellcheck disable=SC2016 # the variables are those of perl
	perl -MSocket -e '
		my ($dir, $command) = @ARGV;
		my ($socket, $more) = (undef, 1);
		$SIG{ALRM} = sub { die "the kernel does not answer\n" };
		alarm 10;
		socket $socket, AF_UNIX, SOCK_DGRAM, 0 or die "$!\n";
		bind $socket, sockaddr_un("$dir/asks") or die "$!\n";
		send $socket, pack("LlLa512", 0xcafebabe, 2, length $command, $command), 0, sockaddr_un("$dir/mconsole") or die "$!\n";
		while ($more) {
			defined recv $socket, my $reply, 1024, 0 or die "$!\n";
			(undef, $more, undef, my $text) = unpack "LLLZ*", $reply;
			print $text;
		}' "$HOME/.uml/$1" 'sysrq w' 2>&1 || true
}

# watch_guest PID LIMIT WORKDIR [UMID]: ends a guest that is past its time, and with UMID says what it waits for; or one whose script was killed without a
# chance to clean up.
watch_guest() {
	local end=$((SECONDS + $2))
	while kill -0 "$1" 2>/dev/null; do
		if ((SECONDS >= end)); then
			[[ -z ${4:-} ]] || blocked_tasks "$4" >&2
			kill_guest "$1"
		fi
		if ! kill -0 "$$" 2>/dev/null; then
			kill_guest "$1"
			rm -rf "$3"
			return
		fi
		sleep 0.5
	done
}
