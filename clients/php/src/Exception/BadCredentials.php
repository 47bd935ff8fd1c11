<?php

declare(strict_types=1);

namespace Msgweb\Exception;

/** Neither the environment nor the credentials file says where to connect to, and as whom. */
final class BadCredentials extends MessagingException
{
    protected $errorCode = 'bad_credentials';
}
