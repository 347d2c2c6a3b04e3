"""What is written before it is sent, without a screen: folded pastes, files, commands, history."""
