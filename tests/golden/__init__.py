"""Golden evidence: values and gradients computed by the authors' own code, against this library's."""
