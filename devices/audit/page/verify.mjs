export async function verifyReceipt(data) { return {}; }
