"""The ipex models on the real IPEX, in the environment that `make test-ipex` creates.

`tests/conftest.py` leaves them out where IPEX is not installed.
"""
