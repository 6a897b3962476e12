from opencode_events.mint import mint_id


def test_minted_ids_grow_with_time_as_opencode_s_do() -> None:
    """At 1 795 445 389 923 ms opencode gave out evt_208e27a63002...: the last digits count within a millisecond."""
    assert mint_id(1_795_445_389.923).startswith("evt_208e27a63000")
    assert mint_id(1_795_445_389.924) > mint_id(1_795_445_389.923)


def test_minted_ids_differ_within_one_moment() -> None:
    assert len({mint_id(1.0) for _ in range(10_000)}) == 10_000
