"""What can go wrong with a clone. See `msgweb.errors` for the tree.

BadRequest (the asker must change the request; a retry would end the same)
├── BadBrandName     bad_name      empty, too long, or without a letter or digit for the slug
├── BadDomain        bad_domain    not a host name of at least two labels
├── BadPalette       bad_palette   an unknown role, or a colour that is not #rrggbb
├── UnknownBrand     unknown_brand the brand to clone does not exist, or is not active
└── BrandExists      brand_exists  the new slug or domain is taken
MsgwebError
├── MediaDamaged     media_damaged a source file is missing or does not have its checksum
├── CloneDiffers     clone_differs the finished copy is not like its source
SessionLost
└── Superseded       superseded    a newer attempt at the same clone has begun
"""

from msgweb.errors import BadRequest, MsgwebError, SessionLost


class BadBrandName(BadRequest):
    """The name is empty, too long, or has no letter or digit to make a slug of."""

    code = "bad_name"


class BadDomain(BadRequest):
    """Not a host name of at least two labels."""

    code = "bad_domain"


class BadPalette(BadRequest):
    """An unknown role, or a colour that is not `#rrggbb`."""

    code = "bad_palette"


class UnknownBrand(BadRequest):
    """The brand to clone does not exist, or is not active."""

    code = "unknown_brand"
    status = 404


class BrandExists(BadRequest):
    """The new brand's slug or domain is taken."""

    code = "brand_exists"
    status = 409


class MediaDamaged(MsgwebError):
    """A source file is missing, or its bytes do not have the checksum on record.

    Not the asker's fault, and mended by restoring the file: a later attempt goes on where this one stopped.
    """

    code = "media_damaged"
    status = 409


class CloneDiffers(MsgwebError):
    """The finished copy is not like its source: the source was changed meanwhile. The brand stays invisible."""

    code = "clone_differs"
    status = 409


class Superseded(SessionLost):
    """A newer attempt at the same clone has begun; this one may not write any more."""

    code = "superseded"
