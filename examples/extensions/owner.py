"""Leaves out the pages that belong to a driver's own pool: here those of the network's page_pool."""

from npdump.extensions import DROP


def decide(pages, kernel):
    """Drop pages whose struct page has the pool's mark (Linux PP_SIGNATURE, c07aea3ef4d4, v5.14)."""
    return DROP * (pages.column("pp_magic") >> 2 == 0xDEAD000000000040 >> 2)
