"""The images whose shapes `l2l bench` takes; their pixels are random."""

SIZES = {"mnist": (28, 28), "digits": (8, 8)}  # height and width
PIXELS = {name: height * width for name, (height, width) in SIZES.items()}
