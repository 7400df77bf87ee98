"""What knows of other processes: gathering, sharding, blocks, folders of shards, FSDP2."""
