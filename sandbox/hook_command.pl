#!/usr/bin/perl -w
# SPDX-License-Identifier: Apache-2.0
#
# Every hook command in a machine: passes its words on to the agent, and the answer back.
#
# It is in perl, because a dispatch runs tens of these and starting the interpreter is nearly all
# that one costs: in a machine perl starts in less than half the time of python, and is always
# there. For the same reason it loads no module but strict.

use strict;

my ($AF_UNIX, $SOCK_STREAM) = (1, 1);

sub fail {
    print STDERR "ERROR @_\n";
    exit 1;
}

# Standard input belongs to the caller unless an argument says that it is for us.
sub wants_stdin {
    return "\0@{[join \"\0\", @_]}\0" =~ /\0--file[=\0]-\0/;
}

my ($name) = $0 =~ m{([^/]+)$};
my $address = $ENV{JUJU_AGENT_SOCKET_ADDRESS};
my $context = $ENV{JUJU_CONTEXT_ID};
fail("$name runs in hooks only: JUJU_AGENT_SOCKET_ADDRESS or JUJU_CONTEXT_ID is not set")
    unless defined $address && defined $context;

local $/;
my @words = ($context, $name, @ARGV);
my $call = join("\0", scalar(@words), @words, wants_stdin(@ARGV) ? <STDIN> // "" : "");

socket(my $agent, $AF_UNIX, $SOCK_STREAM, 0) or fail("socket: $!");
connect($agent, pack("Sa*x", $AF_UNIX, $address)) or fail("no agent at $address: $!");
my $data = pack("N", length $call) . $call;
while (length $data) {
    my $sent = syswrite($agent, $data) // fail("agent at $address: $!");
    substr($data, 0, $sent) = "";
}

my ($status, $stdout, $stderr) = (<$agent> // "") =~ /^(\d+)\0([^\0]*)\0(.*)$/s
    or fail("the agent at $address hung up");
print STDOUT $stdout;
print STDERR $stderr;
exit $status;
