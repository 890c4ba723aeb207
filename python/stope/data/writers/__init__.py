"""What stope found, in the formats that other trainers read."""
