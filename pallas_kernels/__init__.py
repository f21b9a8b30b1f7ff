"""Operations with several implementations, one folder each: `api.py` chooses, `reference.py` says what is meant."""
