# Perl's Net::Stomp. Arguments: step, port, login, passcode, queue, version.
use strict;
use warnings;
use Net::Stomp;
use Time::HiRes qw(setitimer ITIMER_REAL);

$| = 1;
my ($step, $port, $login, $passcode, $queue, $version) = @ARGV;
my $receipts = 0;
my @early;

sub say_line { print join(' ', @_), "\n" }

sub connected {
    my ($beats) = @_;
    my $stomp = Net::Stomp->new({
        hostname => '127.0.0.1', port => $port, connect_delay => 0.05, reconnect_attempts => 0, timeout => 20,
        ssl => $ENV{STOMP_CA} ? 1 : 0, ssl_options => { SSL_ca_file => $ENV{STOMP_CA} },
    });
    my $frame = $stomp->connect({
        'accept-version' => $version, host => '127.0.0.1', login => $login, passcode => $passcode,
        'heart-beat' => $beats || '0,0',
    });
    die $frame->as_string unless $frame->command eq 'CONNECTED';
    return ($stomp, $frame->headers->{version});
}

sub subscribe {
    my ($stomp) = @_;
    $stomp->subscribe({
        id => 's', destination => $queue, ack => 'client-individual', 'prefetch-count' => 3,
    });
}

# A frame with a receipt, which is awaited: Net::Stomp itself does so for SEND alone.
sub confirmed {
    my ($stomp, $command, %headers) = @_;
    my $receipt = 'r-' . ++$receipts;
    $stomp->send_frame(Net::Stomp::Frame->new({ command => $command, headers => { %headers, receipt => $receipt } }));
    my $frame;
    while (($frame = $stomp->receive_frame // die 'the connection is gone')->command eq 'MESSAGE') {
        push @early, $frame;  # it may come before the receipt
    }
    die $frame->as_string unless ($frame->headers->{'receipt-id'} // '') eq $receipt;
}

sub message {
    my ($stomp) = @_;
    return shift @early if @early;
    my $frame = $stomp->receive_frame // die 'the connection is gone';
    die $frame->as_string unless $frame->command eq 'MESSAGE';
    return $frame;
}

sub named {
    my ($frame, %headers) = @_;
    return (id => $frame->headers->{ack}, %headers) if $version eq '1.2';
    return (subscription => 's', 'message-id' => $frame->headers->{'message-id'}, %headers);
}

sub settled {
    my ($frame, %headers) = @_;
    return { frame => $frame, named($frame, %headers) };
}

sub talk {
    my ($stomp, $spoken) = connected();
    say_line('connected', $spoken);
    for my $body ('one', 'two', 'drei ß') {
        $stomp->send_with_receipt({ destination => $queue, body => $body, persistent => 'true', note => 'plain' })
            or die 'no receipt';
    }
    say_line('sent');
    subscribe($stomp);
    my ($one, $two, $three) = map { message($stomp) } 1 .. 3;
    say_line('received', map { $_->body } $one, $two, $three);
    say_line('note', $one->headers->{note});
    $stomp->ack(settled($one));
    $stomp->ack(settled($two));
    $stomp->nack(settled($three));
    my $again = message($stomp);
    say_line('again', $again->body, $again->headers->{redelivered});
    $stomp->ack(settled($again));
    my $begin = sub {
        $stomp->send_frame(Net::Stomp::Frame->new({ command => 'BEGIN', headers => { transaction => $_[0] } }));
    };
    $begin->('t1');
    $stomp->send({ destination => $queue, body => 'never', transaction => 't1' });
    confirmed($stomp, 'ABORT', transaction => 't1');
    $begin->('t2');
    $stomp->send({ destination => $queue, body => 'four', transaction => 't2' });
    $stomp->send({ destination => $queue, body => 'five', transaction => 't2' });
    confirmed($stomp, 'COMMIT', transaction => 't2');
    my ($four, $five) = map { message($stomp) } 1 .. 2;
    say_line('committed', $four->body, $five->body);
    $begin->('t3');
    $stomp->ack(settled($_, transaction => 't3')) for $four, $five;
    confirmed($stomp, 'COMMIT', transaction => 't3');
    $stomp->disconnect;
    say_line('bye');
}

# Net::Stomp has no heart-beats of its own: an alarm writes them, as the wrappers on CPAN do.
sub beat {
    my ($stomp) = connected('100,100');
    confirmed($stomp, 'SUBSCRIBE', id => 's', destination => $queue, ack => 'client-individual');
    local $SIG{ALRM} = sub { $stomp->socket->syswrite("\n") };
    setitimer(ITIMER_REAL, 0.1, 0.1);
    say_line('idle');
    my $message;
    $message = $stomp->receive_frame until $message;  # a signal ends the waiting too
    setitimer(ITIMER_REAL, 0);
    say_line('woken', $message->body);
    $stomp->ack(settled($message));
    $stomp->disconnect;
    say_line('bye');
}

# It connects and subscribes again by itself; where the connection breaks while it does, it subscribes twice, and is told
# that the id is taken, and tries again.
sub reconnect {
    my ($stomp) = connected();
    subscribe($stomp);
    confirmed($stomp, 'ACK', named(message($stomp)));
    my $held = message($stomp);
    say_line('holding', $held->body);
    my $again;
    $again = $stomp->receive_frame until $again && $again->command eq 'MESSAGE';
    say_line('again', $again->body, $again->headers->{redelivered});
    confirmed($stomp, 'ACK', named($again));
    $stomp->send({ destination => $queue, body => 'third', persistent => 'true' });
    my $third = message($stomp);
    confirmed($stomp, 'ACK', named($third));
    say_line('received', $third->body);
    $stomp->disconnect;
    say_line('bye');
}

{ talk => \&talk, beat => \&beat, reconnect => \&reconnect }->{$step}->();
