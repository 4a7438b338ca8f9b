"""What is done to a batch on the device, inside the step."""
