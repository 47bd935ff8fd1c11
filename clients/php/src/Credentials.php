<?php

declare(strict_types=1);

namespace Msgweb;

use Msgweb\Exception\BadCredentials;

/**
 * Where to connect to, and as whom: from the environment, or from an installation's `credentials.json`.
 *
 *     MSGWEB_STOMP         host:port of the gateway
 *     MSGWEB_LOGIN         the access key's login
 *     MSGWEB_PASSCODE      its passcode
 *     MSGWEB_NAMESPACE     project.environment, such as taoshop.production; without it the key's default
 *     MSGWEB_CREDENTIALS   a credentials file, for whatever the others do not say
 *     MSGWEB_HOME          the installation's data folder, where that file lies otherwise; default .msgweb
 */
final class Credentials
{
    /** @var string */
    public $host;

    /** @var int */
    public $port;

    /** @var string */
    public $login;

    /** @var string */
    public $passcode;

    /** @var string|null project.environment; null is the access key's default */
    public $namespace;

    public function __construct(string $host, int $port, string $login, string $passcode, ?string $namespace = null)
    {
        $this->host = $host;
        $this->port = $port;
        $this->login = $login;
        $this->passcode = $passcode;
        $this->namespace = $namespace;
    }

    /**
     * The `stomp` part of a `credentials.json`.
     *
     * @throws BadCredentials the file cannot be read, or lacks something
     */
    public static function fromFile(string $path): self
    {
        $text = is_readable($path) ? file_get_contents($path) : false;
        if ($text === false) {
            throw new BadCredentials("$path cannot be read");
        }
        $content = json_decode($text, true);
        $stomp = is_array($content) ? ($content['stomp'] ?? null) : null;
        foreach (['host', 'port', 'login', 'passcode'] as $name) {
            if (!is_array($stomp) || !isset($stomp[$name]) || !is_scalar($stomp[$name])) {
                throw new BadCredentials("$path is no credentials file: stomp.$name is missing");
            }
        }
        return new self(
            (string) $stomp['host'],
            (int) $stomp['port'],
            (string) $stomp['login'],
            (string) $stomp['passcode'],
            isset($stomp['namespace']) ? (string) $stomp['namespace'] : null
        );
    }

    /**
     * The variables above; what they leave open comes from the credentials file.
     *
     * @throws BadCredentials there is not enough of either, or MSGWEB_STOMP is not host:port
     */
    public static function fromEnvironment(): self
    {
        $login = (string) getenv('MSGWEB_LOGIN');
        $passcode = (string) getenv('MSGWEB_PASSCODE');
        if ($login !== '' && $passcode !== '') {
            $found = new self('127.0.0.1', 61613, $login, $passcode);
        } else {
            $home = getenv('MSGWEB_HOME') ?: '.msgweb';
            $found = self::fromFile(getenv('MSGWEB_CREDENTIALS') ?: "$home/credentials.json");
        }
        $address = (string) getenv('MSGWEB_STOMP');
        if ($address !== '') {
            if (!preg_match('/^(.+):(\d{1,5})$/', $address, $parts)) {
                throw new BadCredentials("MSGWEB_STOMP must be host:port, such as 127.0.0.1:61613, not '$address'");
            }
            [, $found->host, $port] = $parts;
            $found->port = (int) $port;
        }
        $namespace = (string) getenv('MSGWEB_NAMESPACE');
        if ($namespace !== '') {
            $found->namespace = $namespace;
        }
        return $found;
    }
}
