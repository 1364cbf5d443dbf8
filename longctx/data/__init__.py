"""From text files to batches of packed documents."""
