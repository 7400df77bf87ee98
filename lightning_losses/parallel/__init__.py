"""Work with several processes: gathering, sharding, blocks, folders of shards, FSDP2."""
