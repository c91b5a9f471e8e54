"""What every command shares: messages, the one report format, publishing, JSONL, configs."""
