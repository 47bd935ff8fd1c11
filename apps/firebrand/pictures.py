"""Pictures for a brand that is made up: abstract things of the home in the brand's colours, drawn with Pillow.

A picture follows from its arguments alone, byte for byte with the same Pillow. Drawn at twice the size and halved:
that smooths the edges for less time than any drawing of smooth lines takes.
"""

import io
import random
from collections.abc import Callable, Mapping

from PIL import Image, ImageDraw

SIDE = 240  # pixels of a product's picture, both ways
BANNER = (960, 320)
_SCALE = 2

Colour = tuple[int, int, int]
Shape = Callable[[ImageDraw.ImageDraw, random.Random, Colour, Colour], None]


def rgb(colour: str) -> Colour:
    """`#rrggbb` as three numbers."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def mixed(one: Colour, other: Colour, share: float) -> Colour:
    """`one` with a share (0 to 1) of `other`."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


WHITE: Colour = (255, 255, 255)
BLACK: Colour = (0, 0, 0)

# Shapes stand on a ground line at y = 390 of 480, around x = 240. `body` and `trim` are two colours that go together.


def _lamp(draw: ImageDraw.ImageDraw, rng: random.Random, body: Colour, trim: Colour) -> None:
    top, wide, narrow = rng.randint(90, 130), rng.randint(80, 110), rng.randint(35, 60)
    draw.rectangle((234, 200, 246, 382), fill=trim)
    draw.ellipse((180, 370, 300, 398), fill=mixed(trim, BLACK, 0.15))
    draw.polygon([(240 - narrow, top), (240 + narrow, top), (240 + wide, 230), (240 - wide, 230)], fill=body)
    draw.polygon(
        [(240 - narrow, top), (240 - narrow + 22, top), (240 - wide + 34, 230), (240 - wide, 230)],
        fill=mixed(body, WHITE, 0.25),
    )


def _vase(draw: ImageDraw.ImageDraw, rng: random.Random, body: Colour, trim: Colour) -> None:
    belly, neck, top = rng.randint(75, 105), rng.randint(24, 40), rng.randint(130, 170)
    for bend in range(rng.randint(3, 5)):
        lean = rng.randint(-80, 80)
        draw.line(
            [(240 + bend * 6 - 12, top + 20), (240 + lean, 60 + 14 * bend)], fill=mixed(trim, BLACK, 0.1), width=5
        )
        draw.ellipse((228 + lean, 44 + 14 * bend, 252 + lean, 76 + 14 * bend), fill=trim)
    draw.rectangle((240 - neck, top, 240 + neck, 260), fill=body)
    draw.ellipse((240 - belly, 220, 240 + belly, 392), fill=body)
    draw.ellipse((240 - neck - 8, top - 10, 240 + neck + 8, top + 12), fill=mixed(body, BLACK, 0.25))
    draw.ellipse((240 - belly + 22, 250, 240 - belly + 50, 340), fill=mixed(body, WHITE, 0.3))


def _bowl(draw: ImageDraw.ImageDraw, rng: random.Random, body: Colour, trim: Colour) -> None:
    wide, top = rng.randint(120, 150), rng.randint(230, 260)
    draw.chord((240 - wide, top - 130, 240 + wide, top + 130), 0, 180, fill=body)
    draw.ellipse((240 - wide, top - 28, 240 + wide, top + 28), fill=mixed(body, BLACK, 0.2))
    draw.ellipse((240 - wide + 12, top - 20, 240 + wide - 12, top + 24), fill=mixed(trim, WHITE, 0.2))
    draw.rounded_rectangle((190, top + 118, 290, 396), 10, fill=mixed(body, BLACK, 0.25))


def _chair(draw: ImageDraw.ImageDraw, rng: random.Random, body: Colour, trim: Colour) -> None:
    back = rng.randint(80, 120)
    for x, lean in ((165, -18), (300, 18)):
        draw.line([(x, 280), (x + lean, 394)], fill=trim, width=12)
    for x in (185, 282):
        draw.line([(x, 280), (x, 380)], fill=mixed(trim, BLACK, 0.25), width=10)
    draw.rounded_rectangle((160, back, 308, 262), 34, fill=body)
    if rng.random() < 0.5:
        for x in range(190, 290, 24):
            draw.line([(x, back + 20), (x, 244)], fill=mixed(body, BLACK, 0.18), width=6)
    draw.rounded_rectangle((140, 250, 326, 296), 20, fill=mixed(body, WHITE, 0.16))


def _mug(draw: ImageDraw.ImageDraw, rng: random.Random, body: Colour, trim: Colour) -> None:
    top = rng.randint(170, 210)
    draw.ellipse((280, top + 40, 372, top + 150), outline=mixed(body, BLACK, 0.15), width=20)
    draw.rounded_rectangle((140, top, 310, 392), 30, fill=body)
    draw.rectangle((140, top + 70, 310, top + 70 + rng.randint(20, 60)), fill=trim)
    draw.ellipse((140, top - 22, 310, top + 22), fill=mixed(body, BLACK, 0.25))
    draw.ellipse((152, top - 14, 298, top + 18), fill=mixed(trim, BLACK, 0.35))


def _bottle(draw: ImageDraw.ImageDraw, rng: random.Random, body: Colour, trim: Colour) -> None:
    wide, neck = rng.randint(50, 72), rng.randint(16, 24)
    draw.rounded_rectangle((240 - neck, 84, 240 + neck, 240), 8, fill=body)
    draw.rounded_rectangle((240 - wide, 190, 240 + wide, 394), 44, fill=body)
    draw.rounded_rectangle((240 - neck - 5, 66, 240 + neck + 5, 104), 8, fill=trim)
    draw.rectangle((240 - wide, 270, 240 + wide, 270 + rng.randint(40, 70)), fill=mixed(trim, WHITE, 0.55))
    draw.rounded_rectangle((240 - wide + 12, 220, 240 - wide + 22, 380), 5, fill=mixed(body, WHITE, 0.35))


def _cushion(draw: ImageDraw.ImageDraw, rng: random.Random, body: Colour, trim: Colour) -> None:
    draw.rounded_rectangle((100, 140, 380, 394), 64, fill=body)
    step = rng.randint(30, 52)
    for x in range(130, 352, step):
        draw.line([(x, 160), (x, 374)], fill=trim, width=rng.choice((4, 8, 12)))
    draw.rounded_rectangle((100, 140, 380, 394), 64, outline=mixed(body, BLACK, 0.2), width=8)


def _clock(draw: ImageDraw.ImageDraw, rng: random.Random, body: Colour, trim: Colour) -> None:
    draw.ellipse((100, 90, 380, 370), fill=body)
    draw.ellipse((122, 112, 358, 348), fill=mixed(trim, WHITE, 0.75))
    draw.line(
        [(240, 230), (240 + rng.randint(-60, 60), 230 - rng.randint(30, 60))], fill=mixed(body, BLACK, 0.3), width=12
    )
    draw.line(
        [(240, 230), (240 + rng.randint(-70, 70), 230 - rng.randint(50, 90))], fill=mixed(body, BLACK, 0.3), width=7
    )
    draw.ellipse((228, 218, 252, 242), fill=trim)


def _plant(draw: ImageDraw.ImageDraw, rng: random.Random, body: Colour, trim: Colour) -> None:
    for _ in range(rng.randint(5, 8)):
        x, y = rng.randint(130, 310), rng.randint(70, 190)
        draw.line([(240, 290), (x + 20, y + 40)], fill=mixed(trim, BLACK, 0.3), width=5)
        draw.ellipse((x, y, x + 44, y + 84), fill=mixed(trim, BLACK, rng.random() * 0.3))
    draw.polygon([(160, 270), (320, 270), (296, 394), (184, 394)], fill=body)
    draw.rounded_rectangle((148, 254, 332, 288), 8, fill=mixed(body, WHITE, 0.18))


def _table(draw: ImageDraw.ImageDraw, rng: random.Random, body: Colour, trim: Colour) -> None:
    top = rng.randint(200, 260)
    for x, lean in ((150, -26), (330, 26)):
        draw.line([(x, top + 10), (x + lean, 394)], fill=mixed(trim, BLACK, 0.1), width=14)
    draw.rounded_rectangle((90, top, 390, top + 34), 16, fill=body)
    draw.ellipse((205, top - 76, 275, top + 2), fill=mixed(trim, WHITE, 0.25))


SHAPES: Mapping[str, Shape] = {
    "lamp": _lamp,
    "vase": _vase,
    "bowl": _bowl,
    "chair": _chair,
    "mug": _mug,
    "bottle": _bottle,
    "cushion": _cushion,
    "clock": _clock,
    "plant": _plant,
    "table": _table,
}


def product(shape: str, palette: Mapping[str, str], seed: str) -> bytes:
    """The picture of a product: a JPEG of 240 by 240 pixels.

    Args:
        shape: a key of `SHAPES`.
        palette: the brand's colours by role.
        seed: decides on proportions and colours.
    """
    rng = random.Random(seed)
    roles = [rgb(palette[role]) for role in ("primary", "secondary", "accent")]
    rng.shuffle(roles)
    body, trim, tint = roles
    body = mixed(body, rng.choice((WHITE, BLACK)), rng.random() * 0.22)
    wall = mixed(rgb(palette["surface"]), mixed(tint, WHITE, 0.55), rng.random() * 0.55)
    image = Image.new("RGB", (SIDE * _SCALE, SIDE * _SCALE), wall)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 350, 480, 480), fill=mixed(wall, BLACK, 0.07))
    if rng.random() < 0.5:
        x, y, radius = rng.randint(60, 420), rng.randint(40, 200), rng.randint(60, 130)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=mixed(wall, WHITE, 0.35))
    draw.ellipse((110, 378, 370, 412), fill=mixed(wall, BLACK, 0.2))
    SHAPES[shape](draw, rng, body, trim)
    return _encoded(image.reduce(_SCALE), "JPEG", quality=82)


def banner(palette: Mapping[str, str], seed: str) -> bytes:
    """A wide picture for the head of a page: hills under a low sun, a JPEG of 960 by 320 pixels."""
    rng = random.Random(seed)
    width, height = BANNER[0] * _SCALE, BANNER[1] * _SCALE
    background, surface = rgb(palette["background"]), rgb(palette["surface"])
    image = Image.new("RGB", (width, height), mixed(surface, background, 0.4))
    draw = ImageDraw.Draw(image)
    x, y, radius = rng.randint(width // 5, width * 4 // 5), rng.randint(120, 260), rng.randint(90, 150)
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=rgb(palette["accent"]))
    ridge = rng.sample(["secondary", "primary", "primary"], 3)
    for depth, role in enumerate(ridge):
        colour = mixed(rgb(palette[role]), surface, 0.5 - 0.22 * depth)
        base = 300 + depth * 110
        line = [(at, base + rng.randint(-70, 70)) for at in range(0, width + 161, 160)]
        draw.polygon([(0, height), *line, (width, height)], fill=colour)
    return _encoded(image.reduce(_SCALE), "JPEG", quality=84)


def logo(palette: Mapping[str, str], seed: str) -> bytes:
    """A round mark: a PNG of 128 by 128 pixels with a transparent ground."""
    rng = random.Random(seed)
    image = Image.new("RGBA", (512, 512), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    draw.ellipse((8, 8, 504, 504), fill=rgb(palette["primary"]))
    tip = rng.randint(200, 312)
    draw.polygon([(tip, 70), (390, 320), (256, 440), (122, 320)], fill=rgb(palette["accent"]))
    draw.ellipse((176, 250, 336, 430), fill=mixed(rgb(palette["accent"]), WHITE, 0.55))
    return _encoded(image.reduce(4), "PNG", optimize=True)


def _encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)  # the options are each format's own
    return buffer.getvalue()
