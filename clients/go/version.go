package tickstorm

// Version is the version of this client, which edges show to their operators.
const Version = "0.1.0"
