// Calls the six methods of the official client. Arguments: host, write key. Prints one line of JSON: what it was told.
const { Analytics } = require('@segment/analytics-node')

const [host, writeKey] = process.argv.slice(2)
const analytics = new Analytics({ writeKey, host, maxRetries: 0, flushInterval: 50 })
const failures = []
const statuses = []
analytics.on('error', (error) => failures.push(String(error.reason ?? error.code)))
analytics.on('http_response', (response) => statuses.push(response.status))

const userId = 'user-1'
analytics.identify({ userId, traits: { plan: 'gold', homeCity: 'Lisbon', ssn: '078-05-1120' } })
analytics.track({
  userId,
  event: 'Product Viewed',
  properties: { product_id: 'p-7', price: 12.5, currency: 'EUR', secret: 'x' },
})
analytics.page({ userId, category: 'Docs', name: 'Start', properties: { url: 'https://shop.example/?email=a@b.c' } })
analytics.screen({ userId, category: 'Docs', name: 'Start' })
analytics.group({ userId, groupId: 'company-1', traits: { plan: 'team' } })
analytics.alias({ userId, previousId: 'anonymous-1' })

analytics.closeAndFlush({ timeout: 10000 }).then(() => {
  console.log(JSON.stringify({ failures, statuses }))
})
