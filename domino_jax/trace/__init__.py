"""Any apply(params, inputs) in, its layers out: axes and multiply-adds; nothing is executed."""
