"""Everything that concerns other processes: gathering, sharding, blocks, folders of shards, FSDP2."""
