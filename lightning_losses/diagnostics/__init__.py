"""What can be measured of a network: functions of tensors; the callbacks of the same names watch them in training."""
