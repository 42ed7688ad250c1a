"""Looks after a storage root between studies: sets it up, measures it, clears it up."""
