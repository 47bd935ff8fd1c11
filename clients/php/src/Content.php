<?php

declare(strict_types=1);

namespace Msgweb;

use Msgweb\Exception\BadBody;

/**
 * Bodies and their content types: what PHP values become on the wire, and back.
 *
 * @internal
 */
final class Content
{
    public const JSON = 'application/json';
    public const TEXT = 'text/plain;charset=utf-8';
    public const BYTES = 'application/octet-stream';

    /**
     * The bytes of a body and their content type: a string is text, Bytes is bytes, all else is JSON.
     *
     * @param mixed $body
     * @return array{0: string, 1: string}
     * @throws BadBody not JSON, or a string that is no UTF-8
     */
    public static function encode($body): array
    {
        if ($body instanceof Bytes) {
            return [(string) $body, self::BYTES];
        }
        if (is_string($body)) {
            if (preg_match('//u', $body) !== 1) {
                throw new BadBody('the string is no UTF-8 text; for bytes, send new Msgweb\\Bytes($data)');
            }
            return [$body, self::TEXT];
        }
        try {
            $flags = JSON_THROW_ON_ERROR | JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES | JSON_PRESERVE_ZERO_FRACTION;
            return [json_encode($body, $flags), self::JSON];
        } catch (\JsonException $error) {
            throw new BadBody('the body cannot be written as JSON: ' . $error->getMessage(), null, $error);
        }
    }

    /**
     * The value of a received body, by its content type: JSON is parsed (objects become arrays), all else is a string.
     *
     * @return mixed
     * @throws BadBody the bytes are not the JSON that the content type says
     */
    public static function decode(string $data, ?string $contentType)
    {
        $kind = strtolower(trim(explode(';', (string) $contentType)[0]));
        if ($kind !== self::JSON && substr($kind, -5) !== '+json') {
            return $data;
        }
        try {
            return json_decode($data, true, 512, JSON_THROW_ON_ERROR);
        } catch (\JsonException $error) {
            throw new BadBody("the body is not $contentType: " . $error->getMessage(), null, $error);
        }
    }
}
