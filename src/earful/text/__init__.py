"""Token ids to text and back; nothing here knows of audio or networks."""
