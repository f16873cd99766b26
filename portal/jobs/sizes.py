"""How large something is, for people."""


def size_in_words(size_bytes: int) -> str:
    """`17 bytes`, `1.2 MiB`."""
    if size_bytes < 1024:
        return "1 byte" if size_bytes == 1 else f"{size_bytes} bytes"
    power = min(3, (size_bytes.bit_length() - 1) // 10)
    size = f"{size_bytes / 1024**power:.1f}".removesuffix(".0")
    return f"{size} {('KiB', 'MiB', 'GiB')[power - 1]}"
