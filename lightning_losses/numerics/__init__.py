"""What is done to tensors before and after a formula."""
