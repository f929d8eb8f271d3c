"""Each rule of docs/security.md that no other folder's tests show."""
